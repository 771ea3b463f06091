package verifier

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Field numbers of attest.Attestation and tpm.Quote (go-tpm-tools v0.4.10, proto/attest.proto and
// proto/tpm.proto). The wire is read field by field instead of by the generated type, because a few
// bytes of a repeated message would cost it hundreds in memory.
const (
	pbAKPub             = 1
	pbQuotes            = 2
	pbEventLog          = 3
	pbAKCert            = 6
	pbIntermediateCerts = 7
	pbSEVSNP            = 8
	pbTDX               = 9

	pbQuoteMessage   = 1
	pbQuoteSignature = 2
	pbQuotePCRs      = 3

	pbPCRsHash   = 1
	pbPCRsValues = 2
)

func malformedProtobuf(format string, args ...any) *DecodeError {
	return &DecodeError{Code: CodeMalformedProtobuf, Detail: fmt.Sprintf(format, args...)}
}

// eachField calls f with every field of a protobuf message. For length-delimited fields value holds
// the bytes (aliasing b), for the others number holds the varint.
func eachField(where string, b []byte, f func(num protowire.Number, typ protowire.Type, value []byte, number uint64) error) error {
	for offset := 0; offset < len(b); {
		num, typ, n := protowire.ConsumeTag(b[offset:])
		if n < 0 {
			return malformedProtobuf("%s: no field tag at byte %d", where, offset)
		}
		offset += n
		var value []byte
		var number uint64
		switch typ {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b[offset:])
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b[offset:])
		case protowire.Fixed32Type, protowire.Fixed64Type:
			n = protowire.ConsumeFieldValue(num, typ, b[offset:])
		default:
			n = -1 // groups are not used by these messages, and would let the input choose a nesting depth
		}
		if n < 0 {
			return malformedProtobuf("%s: field %d at byte %d cannot be read", where, num, offset)
		}
		offset += n
		if err := f(num, typ, value, number); err != nil {
			return err
		}
	}
	return nil
}

// decodeProtobuf reads attest.Attestation. Each quote carries the values of its own bank.
func decodeProtobuf(body []byte) (*Evidence, error) {
	ev := &Evidence{Enrollment: &KeyEvidence{}}
	var akPub []byte
	err := eachField("Attestation", body, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case pbAKPub:
			akPub = value
		case pbQuotes:
			if len(ev.Quotes) == maxQuotes {
				return malformedProtobuf("more than %d quotes", maxQuotes)
			}
			return decodeProtobufQuote(ev, value)
		case pbEventLog:
			ev.EventLog = value
		case pbAKCert:
			ev.Enrollment.AKCertificate = value
		case pbIntermediateCerts:
			if len(ev.Enrollment.AKCertificateChain) == maxCertificates {
				return malformedProtobuf("more than %d intermediate certificates", maxCertificates)
			}
			ev.Enrollment.AKCertificateChain = append(ev.Enrollment.AKCertificateChain, value)
		case pbSEVSNP:
			return ev.setPlatform(decodeProtobufSNP(value))
		case pbTDX:
			return ev.setPlatform(decodeProtobufTDX(value))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(ev.Quotes) == 0 {
		return nil, malformedProtobuf("the attestation holds no quote")
	}
	if len(akPub) > 0 {
		pub, err := tpm.ParsePublic(akPub)
		if err != nil {
			return nil, malformedProtobuf("ak_pub: %s", err)
		}
		ev.Enrollment.AKPublic = pub
	}
	return ev, nil
}

func decodeProtobufQuote(ev *Evidence, b []byte) error {
	var q tpm.Quote
	var bank *tpm.Bank
	where := fmt.Sprintf("quote %d", len(ev.Quotes))
	err := eachField(where, b, func(num protowire.Number, typ protowire.Type, value []byte, _ uint64) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case pbQuoteMessage:
			q.Message = value
		case pbQuoteSignature:
			q.Signature = value
		case pbQuotePCRs:
			if bank != nil {
				return malformedProtobuf("%s: two sets of PCR values", where)
			}
			var err error
			bank, err = decodeProtobufPCRs(where, value)
			return err
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case len(q.Message) == 0 || len(q.Signature) == 0:
		return malformedProtobuf("%s: message or signature is missing", where)
	case bank == nil || bank.Mask == 0:
		return malformedProtobuf("%s: no PCR values", where)
	case ev.PCRs.Bank(bank.Alg) != nil:
		return malformedProtobuf("%s: a second set of %s values", where, bank.Alg)
	}
	ev.Quotes = append(ev.Quotes, q)
	ev.PCRs = append(ev.PCRs, *bank)
	return nil
}

func decodeProtobufPCRs(where string, b []byte) (*tpm.Bank, error) {
	bank := &tpm.Bank{}
	err := eachField(where+" pcrs", b, func(num protowire.Number, typ protowire.Type, value []byte, number uint64) error {
		switch {
		case num == pbPCRsHash && typ == protowire.VarintType:
			if number > 0xffff || !tpm.HashAlg(number).PCRBank() {
				return malformedProtobuf("%s: hash %d is no PCR bank", where, number)
			}
			bank.Alg = tpm.HashAlg(number)
		case num == pbPCRsValues && typ == protowire.BytesType:
			return decodeProtobufPCR(where, bank, value)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if bank.Alg == 0 {
		return nil, malformedProtobuf("%s: the bank's hash is missing", where)
	}
	for i, v := range bank.Values {
		if v != nil && len(v) != bank.Alg.Size() {
			return nil, malformedProtobuf("%s: PCR %d has %d bytes; a %s value has %d", where, i, len(v), bank.Alg, bank.Alg.Size())
		}
	}
	return bank, nil
}

// decodeProtobufPCR reads one map entry: key = 1 (absent means 0), value = 2.
func decodeProtobufPCR(where string, bank *tpm.Bank, b []byte) error {
	var index uint64
	value := []byte{}
	err := eachField(where+" pcr", b, func(num protowire.Number, typ protowire.Type, v []byte, number uint64) error {
		switch {
		case num == 1 && typ == protowire.VarintType:
			index = number
		case num == 2 && typ == protowire.BytesType:
			value = v
		}
		return nil
	})
	if err != nil {
		return err
	}
	if index >= tpm.NumPCRs {
		return malformedProtobuf("%s: %d is no PCR index (0 to 23)", where, index)
	}
	if bank.Mask&(1<<index) != 0 {
		return malformedProtobuf("%s: PCR %d is given twice", where, index)
	}
	bank.Mask |= 1 << index
	bank.Values[index] = value
	return nil
}
