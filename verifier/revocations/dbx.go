package revocations

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/smallstep/pkcs7"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// Bounds of what is read.
const (
	MaxUpdate    = 1 << 20  // bytes of an update
	maxSignature = 64 << 10 // bytes of its PKCS#7 signature
	maxEntries   = 20_000   // of an update or a list
)

// entryKind tells what a digest is of.
type entryKind uint8

const (
	imageHash   entryKind = iota // Authenticode, SHA-256
	certificate                  // of the DER, SHA-256
	tbsHash                      // of a certificate's TBSCertificate, SHA-256 (EFI_CERT_X509_SHA256)
)

// svn is an entry of dbx that is no hash: the least security version of one of Windows' boot applications.
type svn struct {
	application  [16]byte // GUID as it stands in the entry
	major, minor uint16
}

func (s svn) String() string { return fmt.Sprintf("%d.%d", s.major, s.minor) }

// less tells whether s revokes less than o.
func (s svn) less(o svn) bool {
	return s.major < o.major || s.major == o.major && s.minor < o.minor
}

// svnOwner is the owner of such entries, EFI_CERT_OWNER 9d132b6c-59d5-4388-ab1c-185cfcb2eb92.
var svnOwner = [16]byte{0x6c, 0x2b, 0x13, 0x9d, 0xd5, 0x59, 0x88, 0x43, 0xab, 0x1c, 0x18, 0x5c, 0xfc, 0xb2, 0xeb, 0x92}

// parseSVN reads such an entry: a version 1, the application's GUID, minor and major number (2 each), zeros.
func parseSVN(data []byte) (svn, bool) {
	if len(data) != 32 || data[0] != 1 || !bytes.Equal(data[21:], make([]byte, 11)) {
		return svn{}, false
	}
	return svn{application: [16]byte(data[1:17]), minor: binary.LittleEndian.Uint16(data[17:]), major: binary.LittleEndian.Uint16(data[19:])}, true
}

// Update is a signed update of dbx: EFI_VARIABLE_AUTHENTICATION_2 and signature lists (UEFI 2.10, section 8.2.2).
type Update struct {
	hashes       [][32]byte
	certificates [][]byte // DER
	tbsHashes    [][32]byte
	svns         []svn

	timestamp []byte // EFI_TIME, 16 bytes
	lists     []byte
	signature []byte // SignedData
}

// Entries is the number of things that the update revokes.
func (u *Update) Entries() int {
	return len(u.hashes) + len(u.certificates) + len(u.tbsHashes) + len(u.svns)
}

var signedDataGUID = []byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}

// ParseUpdate reads a signed update. It verifies nothing. Errors name the byte offset.
func ParseUpdate(raw []byte) (*Update, error) {
	// EFI_TIME 16; WIN_CERTIFICATE_UEFI_GUID: length 4, revision 2, type 2, GUID 16, data.
	const header = 16 + 24
	switch {
	case len(raw) > MaxUpdate:
		return nil, fmt.Errorf("%d bytes are more than %d", len(raw), MaxUpdate)
	case len(raw) < header:
		return nil, errors.New("offset 0: shorter than an EFI_VARIABLE_AUTHENTICATION_2")
	case binary.LittleEndian.Uint16(raw[20:]) != 0x0200 || binary.LittleEndian.Uint16(raw[22:]) != 0x0EF1:
		return nil, errors.New("offset 20: no WIN_CERTIFICATE of revision 2.0 and type EFI_GUID")
	case !bytes.Equal(raw[24:40], signedDataGUID):
		return nil, errors.New("offset 24: the certificate's type is not EFI_CERT_TYPE_PKCS7_GUID")
	}
	length := uint64(binary.LittleEndian.Uint32(raw[16:]))
	if length <= 24 || length > uint64(len(raw)-16) || length > maxSignature {
		return nil, fmt.Errorf("offset 16: a certificate of %d bytes", length)
	}
	end := 16 + int(length) // #nosec G115 -- at most maxSignature
	u := &Update{timestamp: raw[:16], signature: raw[header:end], lists: raw[end:]}
	if err := u.readLists(); err != nil {
		return nil, fmt.Errorf("offset %d: %w", end, err)
	}
	return u, nil
}

func (u *Update) readLists() error {
	unknown, count := "", 0
	err := eventlog.WalkSignatures(u.lists, func(kind string, owner, data []byte) {
		if count++; count > maxEntries {
			return
		}
		switch {
		case kind == "sha256" && [16]byte(owner) == svnOwner:
			s, ok := parseSVN(data)
			if !ok {
				unknown = "a security version number of a form that is not known"
				return
			}
			u.svns = append(u.svns, s)
		case kind == "sha256" && len(data) == 32:
			u.hashes = append(u.hashes, [32]byte(data))
		case kind == "x509":
			u.certificates = append(u.certificates, data)
		case kind == "x509_sha256" && len(data) == 32+16: // and a time of revocation
			u.tbsHashes = append(u.tbsHashes, [32]byte(data[:32]))
		default:
			unknown = fmt.Sprintf("an entry of the type %q and %d bytes", kind, len(data))
		}
	})
	switch {
	case err != nil:
		return err
	case count > maxEntries:
		return fmt.Errorf("%d entries are more than %d", count, maxEntries)
	case unknown != "":
		return fmt.Errorf("%s cannot be judged by", unknown)
	case count == 0:
		return errors.New("the update revokes nothing")
	}
	return nil
}

// dbxVariable is what stands before timestamp and data in what is signed: the name without its end, the vendor's GUID
// (EFI_IMAGE_SECURITY_DATABASE_GUID) and the attributes of an appending write (NV, BS, RT, time-based, append).
var dbxVariable = []byte{'d', 0, 'b', 0, 'x', 0,
	0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f, 0x67, 0, 0, 0}

// strongDigests are those that a signature may use: SHA-256, SHA-384, SHA-512.
var strongDigests = []asn1.ObjectIdentifier{{2, 16, 840, 1, 101, 3, 4, 2, 1}, {2, 16, 840, 1, 101, 3, 4, 2, 2}, {2, 16, 840, 1, 101, 3, 4, 2, 3}}

// Verify checks that the update is of dbx, appends to it, and is signed by one signer whose certificate leads to one
// of the given KEK certificates. Like firmware, it asks no certificate for its dates: that of 2011 has ended, and what
// it signed stays revoked. The digest must be of the SHA-2 family.
func (u *Update) Verify(kek []*x509.Certificate) error {
	p7, err := pkcs7.Parse(contentInfo(u.signature))
	if err != nil {
		return fmt.Errorf("the signature cannot be read: %w", err)
	}
	switch {
	case len(p7.Signers) != 1:
		return fmt.Errorf("%d signers instead of one", len(p7.Signers))
	case len(p7.Content) > 0:
		return errors.New("the signature is not detached")
	case !slices.ContainsFunc(strongDigests, p7.Signers[0].DigestAlgorithm.Algorithm.Equal):
		return errors.New("the signature's digest is not of the SHA-2 family")
	}
	p7.Content = slices.Concat(dbxVariable, u.timestamp, u.lists)
	if err := p7.Verify(); err != nil {
		return errors.New("the signature does not hold for an update that appends to dbx")
	}
	return leadsTo(p7.GetOnlySigner(), p7.Certificates, kek)
}

// contentInfo puts a bare SignedData, which is what firmware wants, into a ContentInfo (RFC 2315, section 7).
func contentInfo(signature []byte) []byte {
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(signature, &outer); err != nil || len(outer.Bytes) == 0 || outer.Bytes[0] == asn1.TagOID {
		return signature
	}
	wrapped, err := asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: outer.FullBytes}})
	if err != nil {
		return signature
	}
	return wrapped
}

// leadsTo follows the signer's chain to an anchor. A signer that is itself an anchor needs no chain.
func leadsTo(signer *x509.Certificate, others, anchors []*x509.Certificate) error {
	if signer == nil {
		return errors.New("the signer's certificate is missing")
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range anchors {
		if c.Equal(signer) {
			return nil
		}
		roots.AddCert(c)
	}
	for _, c := range others {
		intermediates.AddCert(c)
	}
	// A time at which the signer was valid, since dates do not count.
	at := signer.NotBefore.Add(time.Second)
	if _, err := signer.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("the signer %q does not lead to a key exchange key that is trusted", signer.Subject.CommonName)
	}
	return nil
}

// digestOf is how a certificate is known.
func digestOf(der []byte) [32]byte { return sha256.Sum256(der) }
