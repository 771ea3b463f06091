package verifier

import (
	"encoding/hex"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// The lists of a wire format are counted while they are read: three bytes of JSON must not cost a
// hundred bytes of memory before anybody looks at their number.

// readArray calls each for every element, at most limit times. null is an empty array.
func readArray(dec *jsontext.Decoder, limit int, each func() error) error {
	if dec.PeekKind() == 'n' {
		_, err := dec.ReadToken()
		return err
	}
	if err := readOpening(dec, '['); err != nil {
		return err
	}
	pointer := string(dec.StackPointer())
	for n := 0; dec.PeekKind() != ']'; n++ {
		if n == limit {
			return invalidField(pointer, "more than %d elements", limit)
		}
		if err := each(); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// readObject calls each after every member's name, at most limit times. null is an empty object.
func readObject(dec *jsontext.Decoder, limit int, each func(name string) error) error {
	if dec.PeekKind() == 'n' {
		_, err := dec.ReadToken()
		return err
	}
	if err := readOpening(dec, '{'); err != nil {
		return err
	}
	pointer := string(dec.StackPointer())
	for n := 0; dec.PeekKind() != '}'; n++ {
		name, err := dec.ReadToken()
		if err != nil {
			return err
		}
		if n == limit {
			return invalidField(pointer, "more than %d members", limit)
		}
		if err := each(name.String()); err != nil {
			return err
		}
	}
	_, err := dec.ReadToken()
	return err
}

// readOpening reads the bracket that a value must begin with. The value's own pointer is only known
// once it has been read.
func readOpening(dec *jsontext.Decoder, want jsontext.Kind) error {
	got := dec.PeekKind()
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != want {
		return invalidField(string(dec.StackPointer()), "a JSON %s does not fit here", kindName(got))
	}
	return nil
}

type quoteList []wireQuote

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (l *quoteList) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return readArray(dec, maxQuotes, func() error {
		var q wireQuote
		if err := json.UnmarshalDecode(dec, &q); err != nil {
			return err
		}
		*l = append(*l, q)
		return nil
	})
}

type certificateList [][]byte

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (l *certificateList) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return readArray(dec, maxCertificates, func() error {
		var der []byte
		if err := json.UnmarshalDecode(dec, &der); err != nil {
			return err
		}
		*l = append(*l, der)
		return nil
	})
}

// pcrBanks is {"sha256": {"0": "hex"}}.
type pcrBanks tpm.PCRs

const maxBanks = 8

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (b *pcrBanks) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return readObject(dec, maxBanks, func(name string) error {
		pointer := string(dec.StackPointer())
		alg, ok := tpm.ParseHashAlg(name)
		if !ok || !alg.PCRBank() {
			return invalidField(pointer, "%q is no PCR bank", name)
		}
		bank := tpm.Bank{Alg: alg}
		buf := make([]byte, 0, tpm.NumPCRs*alg.Size()) // all values of a bank share one buffer
		err := readObject(dec, tpm.NumPCRs, func(key string) error {
			var err error
			buf, err = readPCR(dec, &bank, key, buf)
			return err
		})
		if err != nil {
			return err
		}
		if bank.Mask == 0 {
			return invalidField(pointer, "the bank has no values")
		}
		*b = append(*b, bank)
		return nil
	})
}

func readPCR(dec *jsontext.Decoder, bank *tpm.Bank, key string, buf []byte) ([]byte, error) {
	pointer := func() string { return string(dec.StackPointer()) }
	index, err := strconv.Atoi(key)
	if err != nil || index < 0 || index >= tpm.NumPCRs || pcrKeys[index] != key {
		return buf, invalidField(pointer(), "%q is no PCR index (0 to 23)", key)
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return buf, err
	}
	if tok.Kind() != '"' {
		return buf, invalidField(pointer(), "a JSON %s does not fit here", kindName(tok.Kind()))
	}
	text := tok.String()
	if size := bank.Alg.Size(); len(text) != 2*size {
		return buf, invalidField(pointer(), "%d characters; a %s value has %d hex digits", len(text), bank.Alg, 2*size)
	}
	start := len(buf)
	buf, err = hex.AppendDecode(buf, []byte(text))
	if err != nil {
		return buf, invalidField(pointer(), "not hex")
	}
	bank.Mask |= 1 << uint(index)
	bank.Values[index] = buf[start:len(buf):len(buf)]
	return buf, nil
}
