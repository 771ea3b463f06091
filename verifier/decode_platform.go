package verifier

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/verifier/tee"
)

// maxCollateral bounds the pieces of collateral in one piece of evidence.
const maxCollateral = 16

// WirePlatform is "platform_evidence" as it stands in an enrolment and in evidence (API.md).
type WirePlatform struct {
	Type         string          `json:"type"`
	HCLReport    []byte          `json:"hcl_report"`
	Report       []byte          `json:"report"`
	Quote        []byte          `json:"quote"`
	Certificates certificateList `json:"certificates"`
	EventLog     []byte          `json:"event_log"`
	Collateral   collateralList  `json:"collateral"`
}

type wireCollateral struct {
	Kind        string `json:"kind"`
	Body        []byte `json:"body"`
	IssuerChain string `json:"issuer_chain"` // PEM
}

type collateralList []wireCollateral

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (l *collateralList) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	return readArray(dec, maxCollateral, func() error {
		var c wireCollateral
		if err := json.UnmarshalDecode(dec, &c); err != nil {
			return err
		}
		*l = append(*l, c)
		return nil
	})
}

// Evidence checks shape and bounds. The error is a *DecodeError whose pointer begins with /platform_evidence.
func (w *WirePlatform) Evidence() (*tee.Evidence, error) {
	const at = "/platform_evidence"
	needs := func(field string, value []byte) error {
		if len(value) == 0 {
			return invalidField(at+"/"+field, "%s evidence needs it", w.Type)
		}
		return nil
	}
	foreign := func(field string, value []byte) error {
		if len(value) > 0 {
			return invalidField(at+"/"+field, "%s evidence has no such part", w.Type)
		}
		return nil
	}
	var checks [3]error
	switch w.Type {
	case tee.TypeAzureHCL:
		checks = [...]error{needs("hcl_report", w.HCLReport), foreign("report", w.Report), nil}
	case tee.TypeSEVSNP:
		checks = [...]error{needs("report", w.Report), foreign("hcl_report", w.HCLReport), foreign("quote", w.Quote)}
	case tee.TypeTDX:
		checks = [...]error{needs("quote", w.Quote), foreign("hcl_report", w.HCLReport), foreign("report", w.Report)}
	default:
		return nil, invalidField(at+"/type", "%q is none of azure_hcl, sev_snp, tdx", w.Type)
	}
	for _, err := range checks {
		if err != nil {
			return nil, err
		}
	}
	e := &tee.Evidence{Type: w.Type, HCLReport: w.HCLReport, Report: w.Report, Quote: w.Quote, Certificates: w.Certificates, EventLog: w.EventLog}
	for i, c := range w.Collateral {
		parsed, err := tee.ParseCollateral(tee.Kind(c.Kind), c.Body, []byte(c.IssuerChain))
		if err != nil {
			return nil, invalidField(at+"/collateral/"+strconv.Itoa(i), "%s", err)
		}
		e.Collateral = append(e.Collateral, parsed)
	}
	return e, nil
}

// platform reads the hardware evidence, or the digest that names evidence which the verifier holds.
func (w *wireEvidence) platform(ev *Evidence) (err error) {
	if w.PlatformEvidence != nil {
		if w.PlatformEvidenceDigest != nil {
			return invalidField("/platform_evidence_digest", "give platform_evidence or platform_evidence_digest, not both")
		}
		ev.Platform, err = w.PlatformEvidence.Evidence()
		return err
	}
	if w.PlatformEvidenceDigest != nil {
		text, found := strings.CutPrefix(*w.PlatformEvidenceDigest, "sha256:")
		sum, err := hex.DecodeString(text)
		if !found || err != nil || len(sum) != 32 {
			return invalidField("/platform_evidence_digest", "sha256: and 64 hex digits are needed")
		}
		ev.PlatformDigest = (*[32]byte)(sum)
	}
	return nil
}

// fields collects the length-delimited and varint fields of a protobuf message of which each stands there once
// (of repeated ones the values in order).
type fields struct {
	bytes   map[protowire.Number][][]byte
	numbers map[protowire.Number]uint64
}

// maxFieldValues bounds how often a field may be repeated in a message that fields reads.
const maxFieldValues = 8

func readFields(where string, b []byte) (fields, error) {
	f := fields{map[protowire.Number][][]byte{}, map[protowire.Number]uint64{}}
	err := eachField(where, b, func(num protowire.Number, typ protowire.Type, value []byte, number uint64) error {
		switch typ {
		case protowire.BytesType:
			if num > 64 {
				return nil // unknown; numbers of the messages here go to 31
			}
			if len(f.bytes[num]) == maxFieldValues {
				return malformedProtobuf("%s: field %d is repeated more than %d times", where, num, maxFieldValues)
			}
			f.bytes[num] = append(f.bytes[num], value)
		case protowire.VarintType:
			if num <= 64 {
				f.numbers[num] = number
			}
		}
		return nil
	})
	return f, err
}

// one is the last value of a field: a proto3 reader keeps that one.
func (f *fields) one(num protowire.Number) []byte {
	if list := f.bytes[num]; len(list) > 0 {
		return list[len(list)-1]
	}
	return nil
}

// structWriter builds a binary structure out of protobuf fields, and remembers the first that does not fit.
type structWriter struct {
	where string
	out   []byte
	err   error
}

func (w *structWriter) fixed(name string, value []byte, size int) {
	if len(value) != size && w.err == nil {
		w.err = malformedProtobuf("%s: %s has %d bytes, not %d", w.where, name, len(value), size)
	}
	w.out = append(w.out, value...)
}

func (w *structWriter) number(name string, value uint64, size int) {
	if size < 8 && value >= 1<<(8*uint(size)) && w.err == nil { //nolint:gosec // 1 to 8
		w.err = malformedProtobuf("%s: %s %d does not fit %d bytes", w.where, name, value, size)
	}
	w.out = append(w.out, binary.LittleEndian.AppendUint64(nil, value)[:size]...)
}

// decodeProtobufSNP reads sevsnp.Attestation (go-sev-guest, proto/sevsnp.proto) and writes the report in the form
// of AMD's ABI (AMD 56860, table 23), which is what was signed.
func decodeProtobufSNP(b []byte) (*tee.Evidence, error) {
	const where = "sev_snp_attestation"
	attestation, err := readFields(where, b)
	if err != nil {
		return nil, err
	}
	r, err := readFields(where+" report", attestation.one(1))
	if err != nil {
		return nil, err
	}
	w := structWriter{where: where + " report", out: make([]byte, 0, 1184)}
	n := r.numbers
	w.number("version", n[1], 4)
	w.number("guest_svn", n[2], 4)
	w.number("policy", n[3], 8)
	w.fixed("family_id", r.one(4), 16)
	w.fixed("image_id", r.one(5), 16)
	w.number("vmpl", n[6], 4)
	w.number("signature_algo", n[7], 4)
	w.number("current_tcb", n[8], 8)
	w.number("platform_info", n[9], 8)
	w.number("signer_info", n[10], 4)
	w.number("reserved", 0, 4)
	w.fixed("report_data", r.one(11), 64)
	w.fixed("measurement", r.one(12), 48)
	w.fixed("host_data", r.one(13), 32)
	w.fixed("id_key_digest", r.one(14), 48)
	w.fixed("author_key_digest", r.one(15), 48)
	w.fixed("report_id", r.one(16), 32)
	w.fixed("report_id_ma", r.one(17), 32)
	w.number("reported_tcb", n[18], 8)
	family, model, stepping := familyModelStepping(n[29])
	w.out = append(w.out, family, model, stepping)
	w.out = append(w.out, make([]byte, 21)...)
	w.fixed("chip_id", r.one(19), 64)
	w.number("committed_tcb", n[20], 8)
	for _, v := range [...]struct {
		name string
		num  protowire.Number
	}{{"current_build", 21}, {"current_minor", 22}, {"current_major", 23}} {
		w.number(v.name, n[v.num], 1)
	}
	w.number("reserved", 0, 1)
	for _, v := range [...]struct {
		name string
		num  protowire.Number
	}{{"committed_build", 24}, {"committed_minor", 25}, {"committed_major", 26}} {
		w.number(v.name, n[v.num], 1)
	}
	w.number("reserved", 0, 1)
	w.number("launch_tcb", n[27], 8)
	w.number("launch_mit_vector", n[30], 8)
	w.number("current_mit_vector", n[31], 8)
	w.out = append(w.out, make([]byte, 0x2A0-0x208)...)
	w.fixed("signature", r.one(28), 512)
	if w.err != nil {
		return nil, w.err
	}
	e := &tee.Evidence{Type: tee.TypeSEVSNP, Report: w.out}
	chain, err := readFields(where+" certificate_chain", attestation.one(2))
	if err != nil {
		return nil, err
	}
	for _, num := range [...]protowire.Number{1, 6, 2, 3} { // VCEK, VLEK, ASK or ASVK, ARK
		if der := chain.one(num); len(der) > 0 {
			e.Certificates = append(e.Certificates, der)
		}
	}
	return e, nil
}

// familyModelStepping takes CPUID Fn0000_0001_EAX apart (AMD64 APM volume 3, appendix E.3.2).
func familyModelStepping(eax uint64) (family, model, stepping byte) {
	family = byte(eax>>20) + byte(eax>>8&0xf)
	model = byte(eax>>16&0xf)<<4 | byte(eax>>4&0xf)
	return family, model, byte(eax & 0xf)
}

// decodeProtobufTDX reads tdx.QuoteV4 (go-tdx-guest, proto/tdx.proto) and writes the quote in Intel's form (Intel TDX
// DCAP Quoting Library API, appendix A.3).
func decodeProtobufTDX(b []byte) (*tee.Evidence, error) {
	const where = "tdx_attestation"
	path := []struct {
		name string
		num  protowire.Number
	}{{"", 0}, {" signed_data", 4}, {" certification_data", 3}, {" qe_report_certification_data", 3}}
	messages := make([]fields, len(path))
	name, at := where, b
	for i, p := range path {
		if i > 0 {
			name += p.name
			at = messages[i-1].one(p.num)
		}
		var err error
		if messages[i], err = readFields(name, at); err != nil {
			return nil, err
		}
	}
	quote, signed, certification, qe := messages[0], messages[1], messages[2], messages[3]
	parts := make(map[string]fields, 5)
	for _, p := range [...]struct {
		name string
		in   fields
		num  protowire.Number
	}{{"header", quote, 1}, {"body", quote, 2}, {"qe_report", qe, 1}, {"qe_auth_data", qe, 3}, {"pck_chain", qe, 4}} {
		f, err := readFields(where+" "+p.name, p.in.one(p.num))
		if err != nil {
			return nil, err
		}
		parts[p.name] = f
	}
	w := structWriter{where: where, out: make([]byte, 0, len(b)+256)}
	w.header(parts["header"])
	w.body(parts["body"])
	w.number("signed_data_size", quote.numbers[3], 4)
	w.fixed("signature", signed.one(1), 64)
	w.fixed("ecdsa_attestation_key", signed.one(2), 64)
	w.number("certificate_data_type", certification.numbers[1], 2)
	w.number("size", certification.numbers[2], 4)
	w.qeReport(parts["qe_report"])
	w.fixed("qe_report_signature", qe.one(2), 64)
	auth := parts["qe_auth_data"]
	w.number("parsed_data_size", auth.numbers[1], 2)
	w.out = append(w.out, auth.one(2)...)
	pck := parts["pck_chain"]
	w.number("certificate_data_type", pck.numbers[1], 2)
	w.number("size", pck.numbers[2], 4)
	w.out = append(w.out, pck.one(3)...)
	if w.err != nil {
		return nil, w.err
	}
	return &tee.Evidence{Type: tee.TypeTDX, Quote: w.out}, nil
}

func (w *structWriter) header(h fields) {
	w.number("version", h.numbers[1], 2)
	w.number("attestation_key_type", h.numbers[2], 2)
	w.number("tee_type", h.numbers[3], 4)
	w.fixed("pce_svn", h.one(5), 2)
	w.fixed("qe_svn", h.one(4), 2)
	w.fixed("qe_vendor_id", h.one(6), 16)
	w.fixed("user_data", h.one(7), 20)
}

func (w *structWriter) body(b fields) {
	for _, p := range [...]struct {
		name string
		num  protowire.Number
		size int
	}{{"tee_tcb_svn", 1, 16}, {"mr_seam", 2, 48}, {"mr_signer_seam", 3, 48}, {"seam_attributes", 4, 8}, {"td_attributes", 5, 8}, {"xfam", 6, 8},
		{"mr_td", 7, 48}, {"mr_config_id", 8, 48}, {"mr_owner", 9, 48}, {"mr_owner_config", 10, 48}} {
		w.fixed(p.name, b.one(p.num), p.size)
	}
	if len(b.bytes[11]) != 4 && w.err == nil {
		w.err = malformedProtobuf("%s: %d rtmrs, not 4", w.where, len(b.bytes[11]))
	}
	for _, rtmr := range b.bytes[11] {
		w.fixed("rtmrs", rtmr, 48)
	}
	w.fixed("report_data", b.one(12), 64)
}

func (w *structWriter) qeReport(r fields) {
	w.fixed("cpu_svn", r.one(1), 16)
	w.number("misc_select", r.numbers[2], 4)
	w.fixed("reserved1", r.one(3), 28)
	w.fixed("attributes", r.one(4), 16)
	w.fixed("mr_enclave", r.one(5), 32)
	w.fixed("reserved2", r.one(6), 32)
	w.fixed("mr_signer", r.one(7), 32)
	w.fixed("reserved3", r.one(8), 96)
	w.number("isv_prod_id", r.numbers[9], 2)
	w.number("isv_svn", r.numbers[10], 2)
	w.fixed("reserved4", r.one(11), 60)
	w.fixed("report_data", r.one(12), 64)
}

// setPlatform notes the hardware evidence of a protobuf attestation, of which there is one (a oneof).
func (ev *Evidence) setPlatform(e *tee.Evidence, err error) error {
	if err == nil && ev.Platform != nil {
		err = malformedProtobuf("two attestations of a TEE")
	}
	ev.Platform = e
	return err
}
