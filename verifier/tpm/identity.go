package tpm

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"strings"
)

// Identity is what an EK certificate says of the TPM itself: who made it, which model it is and which firmware it had
// when the certificate was made (TCG EK Credential Profile 2.5, section 3.1.2). Firmware is updated later; the
// certificate stays.
type Identity struct {
	Manufacturer string `json:"manufacturer,omitempty"` // the TCG vendor id, four characters or fewer: "IFX", "STM", "INTC"
	Model        string `json:"model,omitempty"`
	Version      string `json:"version,omitempty"`
}

// The attributes of a TPM in the certificate's subject alternative name (TCG OID Registry, section 3).
var (
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidSubjectAltName  = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// maxIdentityText bounds each field of an Identity.
const maxIdentityText = 64

// IdentityOf reads a TPM's identity out of its EK certificate. ok is false where the certificate names no
// manufacturer; the certificate is believed only as far as its chain was verified.
func IdentityOf(cert *x509.Certificate) (id Identity, ok bool) {
	for i := range cert.Extensions {
		if !cert.Extensions[i].Id.Equal(oidSubjectAltName) {
			continue
		}
		for _, name := range directoryNames(cert.Extensions[i].Value) {
			id.read(name)
		}
	}
	return id, id.Manufacturer != ""
}

// directoryNames are the contents of each directoryName ([4] EXPLICIT Name) of a GeneralNames (RFC 5280,
// section 4.2.1.6).
func directoryNames(der []byte) (out []asn1.RawValue) {
	var names asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) != 0 || !names.IsCompound {
		return nil
	}
	for b := names.Bytes; len(b) > 0; {
		var general, name asn1.RawValue
		var err error
		if b, err = asn1.Unmarshal(b, &general); err != nil {
			return out
		}
		if general.Class != asn1.ClassContextSpecific || general.Tag != 4 {
			continue
		}
		if _, err := asn1.Unmarshal(general.Bytes, &name); err == nil {
			out = append(out, name)
		}
	}
	return out
}

// attribute is one AttributeTypeAndValue.
type attribute struct {
	Type  asn1.ObjectIdentifier
	Value asn1.RawValue
}

// read takes the attributes of a Name, each in a set of its own or all in one: makers do either.
func (id *Identity) read(name asn1.RawValue) {
	for b := name.Bytes; len(b) > 0; {
		var set asn1.RawValue
		var err error
		if b, err = asn1.Unmarshal(b, &set); err != nil {
			return
		}
		for s := set.Bytes; len(s) > 0; {
			var a attribute
			if s, err = asn1.Unmarshal(s, &a); err != nil {
				return
			}
			text := string(a.Value.Bytes)
			if len(text) > maxIdentityText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
				continue
			}
			switch {
			case a.Type.Equal(oidTPMManufacturer):
				id.Manufacturer = manufacturer(text)
			case a.Type.Equal(oidTPMModel):
				id.Model = text
			case a.Type.Equal(oidTPMVersion):
				id.Version = text
			}
		}
	}
}

// manufacturer turns "id:" and eight hexadecimal digits into the four characters that they are, without padding (TCG
// Vendor ID Registry). What is not of that form stays as it is.
func manufacturer(text string) string {
	digits, found := strings.CutPrefix(text, "id:")
	b, err := hex.DecodeString(digits)
	if !found || err != nil || len(b) != 4 {
		return text
	}
	name := strings.TrimRight(string(b), "\x00 ")
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return text
	}
	return name
}
