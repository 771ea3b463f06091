package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-verifier/assay/integration/swtpm"
)

// loaded is a key in the TPM.
type loaded struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public *Public
}

func execute[R any](t testing.TB, device transport.TPM, cmd interface {
	Execute(transport.TPM, ...tpm2.Session) (*R, error)
}) *R {
	t.Helper()
	r, err := cmd.Execute(device)
	if err != nil {
		t.Fatalf("%T: %v", cmd, err)
	}
	return r
}

// ekAuth authorizes the use of an EK: low-range templates ask for a policy, high-range ones take the
// empty password.
func ekAuth(ek loaded) tpm2.AuthHandle {
	h := tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: tpm2.PasswordAuth(nil)}
	if !ek.public.Attributes().Has(UserWithAuth) {
		h.Auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(device transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{
				AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
				PolicySession: session, NonceTPM: nonce,
			}.Execute(device)
			return err
		})
	}
	return h
}

func endorsementKeys(t testing.TB, device transport.TPM) map[string]loaded {
	t.Helper()
	out := map[string]loaded{}
	for name, handle := range map[string]tpm2.TPMHandle{"rsa2048": 0x81010001, "secp384r1": 0x81010016} {
		r := execute[tpm2.ReadPublicResponse](t, device, tpm2.ReadPublic{ObjectHandle: handle})
		out[name] = loaded{handle, r.Name, mustParse(t, r.OutPublic.Bytes())}
	}
	r := execute[tpm2.CreatePrimaryResponse](t, device, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCEKTemplate)})
	out["secp256r1 (L-2)"] = loaded{r.ObjectHandle, r.Name, mustParse(t, r.OutPublic.Bytes())}
	return out
}

func mustParse(t testing.TB, b []byte) *Public {
	t.Helper()
	p, err := ParsePublic(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// akTemplate is an AK of one scheme and hash; the name algorithm is the signature's.
func akTemplate(scheme, hash tpm2.TPMAlgID, curve tpm2.TPMECCCurve) tpm2.TPMTPublic {
	p := tpm2.TPMTPublic{NameAlg: hash, ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true}}
	switch scheme {
	case tpm2.TPMAlgECDSA:
		p.Type = tpm2.TPMAlgECC
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve,
			Scheme: tpm2.TPMTECCScheme{Scheme: scheme, Details: tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})}})
	case tpm2.TPMAlgRSAPSS:
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: scheme, Details: tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash})}})
	default:
		p.Type = tpm2.TPMAlgRSA
		p.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: scheme, Details: tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash})}})
	}
	return p
}

// createAK makes an AK as a child of the EK, as tpm2_createak does.
func createAK(t testing.TB, device transport.TPM, ek loaded, template tpm2.TPMTPublic) loaded {
	t.Helper()
	made := execute[tpm2.CreateResponse](t, device, tpm2.Create{ParentHandle: ekAuth(ek), InPublic: tpm2.New2B(template)})
	r := execute[tpm2.LoadResponse](t, device, tpm2.Load{ParentHandle: ekAuth(ek), InPrivate: made.OutPrivate, InPublic: made.OutPublic})
	return loaded{r.ObjectHandle, r.Name, mustParse(t, made.OutPublic.Bytes())}
}

func flush(t testing.TB, device transport.TPM, handle tpm2.TPMHandle) {
	t.Helper()
	execute[tpm2.FlushContextResponse](t, device, tpm2.FlushContext{FlushHandle: handle})
}

func readBank(t testing.TB, device transport.TPM, alg HashAlg) Bank {
	t.Helper()
	bank := Bank{Alg: alg, Mask: allPCRs}
	for first := 0; first < NumPCRs; first += 8 {
		mask := make([]byte, 3)
		mask[first/8] = 0xff
		r := execute[tpm2.PCRReadResponse](t, device, tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(alg), PCRSelect: mask}}}})
		for i, d := range r.PCRValues.Digests {
			bank.Values[first+i] = d.Buffer
		}
	}
	return bank
}

func activate(device transport.TPM, ek, ak loaded, blob, sealed []byte) ([]byte, error) {
	object, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](blob)
	if err != nil {
		return nil, err
	}
	secret, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](sealed)
	if err != nil {
		return nil, err
	}
	r, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      ekAuth(ek), CredentialBlob: *object, Secret: *secret,
	}.Execute(device)
	if err != nil {
		return nil, err
	}
	return r.CertInfo.Buffer, nil
}

// The whole life of an AK on a real software TPM: EK certificate, AK under each kind of EK, credential
// activation, quote; and what must not work.
func TestAgainstSoftwareTPM(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{Name: "box"})
	device, err := linuxudstpm.Open(box.Socket)
	if err != nil {
		t.Fatal(err)
	}
	eks := endorsementKeys(t, device)
	checkCertificates(t, box, eks)

	for i, digest := range [][]byte{bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)} {
		execute[tpm2.PCRExtendResponse](t, device, tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(4 + i), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}}})
	}
	pcrs := PCRs{readBank(t, device, SHA256), readBank(t, device, SHA384)}

	for ekName, ek := range eks {
		for _, c := range []struct {
			name     string
			template tpm2.TPMTPublic
		}{
			{"RSASSA sha256", akTemplate(tpm2.TPMAlgRSASSA, tpm2.TPMAlgSHA256, 0)},
			{"RSASSA sha384", akTemplate(tpm2.TPMAlgRSASSA, tpm2.TPMAlgSHA384, 0)},
			{"RSAPSS sha256", akTemplate(tpm2.TPMAlgRSAPSS, tpm2.TPMAlgSHA256, 0)},
			{"RSAPSS sha512", akTemplate(tpm2.TPMAlgRSAPSS, tpm2.TPMAlgSHA512, 0)},
			{"ECDSA P-256 sha256", akTemplate(tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256, tpm2.TPMECCNistP256)},
			{"ECDSA P-384 sha384", akTemplate(tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA384, tpm2.TPMECCNistP384)},
		} {
			t.Run(fmt.Sprintf("%s under %s", c.name, ekName), func(t *testing.T) {
				ak := createAK(t, device, ek, c.template)
				defer flush(t, device, ak.handle)
				if err := CheckAK(ak.public); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(ak.public.Name(), ak.name.Buffer) {
					t.Errorf("name %x, the TPM says %x", ak.public.Name(), ak.name.Buffer)
				}
				checkCredential(t, device, ek, ak)
				checkQuote(t, device, ak, pcrs)
			})
		}
	}
	t.Run("credential for another AK", func(t *testing.T) {
		ek := eks["rsa2048"]
		one := createAK(t, device, ek, akTemplate(tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256, tpm2.TPMECCNistP256))
		defer flush(t, device, one.handle)
		name := bytes.Clone(one.public.Name())
		name[10] ^= 1
		blob, sealed, err := MakeCredential(ek.public, name, []byte("secret"), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := activate(device, ek, one, blob, sealed); err == nil {
			t.Errorf("activated: %q", got)
		}
		// Made for one EK and opened with another one's parameters.
		blob, sealed, err = MakeCredential(eks["secp384r1"].public, one.public.Name(), []byte("secret"), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := activate(device, ek, one, blob, sealed); err == nil {
			t.Errorf("activated: %q", got)
		}
	})
}

// checkCertificates: each EK certificate chains to the private CA, and certifies the EK in the TPM.
func checkCertificates(t *testing.T, box *swtpm.TPM, eks map[string]loaded) {
	t.Helper()
	parse := func(text []byte, err error) []*x509.Certificate {
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return []*x509.Certificate{cert}
	}
	roots, intermediates := parse(box.RootPEM()), parse(box.IntermediatePEM())
	for _, kind := range []string{"rsa2048", "secp384r1"} {
		der, err := box.EKCertificate(kind)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ParseEKCertificate(append(der, make([]byte, 100)...))
		if err != nil {
			t.Fatal(err)
		}
		if chain, err := VerifyEKChain(cert, intermediates, roots, time.Now()); err != nil || len(chain) != 3 {
			t.Errorf("%s: %d certificates, %v", kind, len(chain), err)
		}
		if err := MatchEK(cert, eks[kind].public); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if err := MatchEK(cert, eks["secp256r1 (L-2)"].public); err != ErrKeyMismatch {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// checkCredential: the TPM gives back what was sealed, also where only the bare EK was known.
func checkCredential(t *testing.T, device transport.TPM, ek, ak loaded) {
	t.Helper()
	bare, err := PublicFromCrypto(ek.public.Key())
	if err != nil {
		t.Fatal(err)
	}
	for _, public := range []*Public{ek.public, bare} {
		secret := make([]byte, 32)
		if _, err := rand.Read(secret); err != nil {
			t.Fatal(err)
		}
		blob, sealed, err := MakeCredential(public, ak.public.Name(), secret, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := activate(device, ek, ak, blob, sealed)
		if err != nil || !bytes.Equal(got, secret) {
			t.Errorf("attributes known %v: %x, want %x, %v", public.HasAttributes(), got, secret, err)
		}
	}
}

// checkQuote: a quote verifies; a certification by the same key does not pass for one.
func checkQuote(t *testing.T, device transport.TPM, ak loaded, pcrs PCRs) {
	t.Helper()
	sign := tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)}
	all := []byte{0xff, 0xff, 0xff}
	q := execute[tpm2.QuoteResponse](t, device, tpm2.Quote{SignHandle: sign,
		QualifyingData: tpm2.TPM2BData{Buffer: testNonce}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA384, PCRSelect: all}, {Hash: tpm2.TPMAlgSHA256, PCRSelect: all}}}})
	quote := Quote{Message: q.Quoted.Bytes(), Signature: tpm2.Marshal(q.Signature)}
	e := fresh()
	e.Required = []Selection{{SHA256, allPCRs}}
	v, r := Verify(ak.public, []Quote{quote}, pcrs, e)
	if value, _ := mustPass(t, v, r).PCR(SHA256, 5); !bytes.Equal(value, pcrs[0].Values[5]) {
		t.Errorf("PCR 5 %x", value)
	}
	wrong := clonePCRs(pcrs)
	wrong[0].Values[4], wrong[0].Values[5] = wrong[0].Values[5], wrong[0].Values[4]
	v, r = Verify(ak.public, []Quote{quote}, wrong, e)
	mustFail(t, StepDigest, "", v, r)

	c := execute[tpm2.CertifyResponse](t, device, tpm2.Certify{
		ObjectHandle: sign, SignHandle: sign,
		QualifyingData: tpm2.TPM2BData{Buffer: testNonce}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}})
	v, r = Verify(ak.public, []Quote{{c.CertifyInfo.Bytes(), tpm2.Marshal(c.Signature)}}, pcrs, e)
	mustFail(t, StepType, "TPM2_Certify,", v, r)
}
