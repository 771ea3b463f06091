package tee

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-tdx-guest/pcs"
	tpb "github.com/google/go-tdx-guest/proto/tdx"
)

// TCBStatus is what Intel says of a platform's TCB, in Intel's words: UpToDate, SWHardeningNeeded,
// ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded, Revoked.
type TCBStatus struct {
	Platform   string   `json:"platform,omitempty"` // of the platform and, where it is worse, its TDX module
	QE         string   `json:"quoting_enclave,omitempty"`
	Date       string   `json:"date,omitempty"` // of the TCB level that the platform reaches
	Advisories []string `json:"advisories,omitempty"`
}

// statusRank orders Intel's words from good to bad; an unknown word is the worst.
func statusRank(s string) int {
	order := []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
		"OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}
	if i := slices.Index(order, s); i >= 0 {
		return i
	}
	return len(order)
}

// worst is the word for platform and quoting enclave together, as far as either is known.
func (s *TCBStatus) worst() string {
	switch {
	case s.Platform == "":
		return s.QE
	case s.QE == "":
		return s.Platform
	}
	return converge(s.Platform, s.QE)
}

// converge is Intel's word for two parts together: the worse one, but a platform that needs configuration beside a part
// that is out of date needs both (Intel PCS API v4, "TDX module TCB status"; convergeTcbStatus of Intel's QVL).
func converge(a, b string) string {
	if statusRank(a) > statusRank(b) {
		a, b = b, a
	}
	if b == "OutOfDate" && (a == "ConfigurationNeeded" || a == "ConfigurationAndSWHardeningNeeded") {
		return "OutOfDateConfigurationNeeded"
	}
	return b
}

// tdQESigner and tdQEProduct identify Intel's TD quoting enclave (MRSIGNER and ISVPRODID in every "TD_QE" identity of
// Intel's PCS).
const (
	tdQESigner  = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"
	tdQEProduct = 2
)

// intelQE checks that a quote was made by Intel's quoting enclave and not by any other: the PCK key signs the report
// of whatever enclave asks for it, and one of somebody else's would quote what it likes. It is asked also where no
// QE identity is held.
func intelQE(q *tdQuote) error {
	qe := q.proto.GetSignedData().GetCertificationData().GetQeReportCertificationData().GetQeReport()
	switch {
	case hex.EncodeToString(qe.GetMrSigner()) != tdQESigner || qe.GetIsvProdId() != tdQEProduct:
		return errors.New("it was made by another enclave than Intel's TD quoting enclave")
	case len(qe.GetAttributes()) == 0 || qe.GetAttributes()[0]&2 != 0: // SGX ATTRIBUTES.DEBUG
		return errors.New("the quoting enclave runs under debug")
	}
	return nil
}

// byQEIdentity compares the quoting enclave with Intel's identity of it (Intel PCS API v4, EnclaveIdentityV2).
func (s *TCBStatus) byQEIdentity(q *tdQuote, id *pcs.EnclaveIdentity) error {
	qe := q.proto.GetSignedData().GetCertificationData().GetQeReportCertificationData().GetQeReport()
	misc := binary.LittleEndian.AppendUint32(nil, qe.GetMiscSelect())
	switch {
	case !maskedEqual(misc, id.MiscselectMask.Bytes, id.Miscselect.Bytes):
		return errors.New("its MISCSELECT is another")
	case !maskedEqual(qe.GetAttributes(), id.AttributesMask.Bytes, id.Attributes.Bytes):
		return errors.New("its ATTRIBUTES are others")
	case !bytes.Equal(qe.GetMrSigner(), id.Mrsigner.Bytes):
		return errors.New("its MRSIGNER is another")
	case qe.GetIsvProdId() != uint32(id.IsvProdID):
		return fmt.Errorf("its ISVPRODID is %d, not %d", qe.GetIsvProdId(), id.IsvProdID)
	}
	for i := range id.TcbLevels {
		level := &id.TcbLevels[i]
		if level.Tcb.Isvsvn <= qe.GetIsvSvn() {
			s.QE = string(level.TcbStatus)
			s.advise(level.AdvisoryIDs)
			return nil
		}
	}
	return fmt.Errorf("its ISVSVN %d is below every level that Intel lists", qe.GetIsvSvn())
}

// maskedEqual compares value under a mask.
func maskedEqual(value, mask, want []byte) bool {
	if len(value) != len(mask) || len(value) != len(want) {
		return false
	}
	for i := range value {
		if value[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// byTCBInfo finds the TCB level that the platform reaches (Intel PCS API v4, "How to determine the status of a
// platform", and for TDX module identities the TDX part of it).
func (s *TCBStatus) byTCBInfo(q *tdQuote, info *pcs.TcbInfo) error {
	body := q.proto.GetTdQuoteBody()
	if !strings.EqualFold(q.pck.PCEID, info.PceID) {
		return fmt.Errorf("PCE id %s, not %s", q.pck.PCEID, info.PceID)
	}
	svn := body.GetTeeTcbSvn()
	module := moduleIdentity{info.TdxModule.Mrsigner.Bytes, info.TdxModule.Attributes.Bytes, info.TdxModule.AttributesMask.Bytes}
	var versioned *pcs.TdxModuleIdentity
	if svn[1] > 0 {
		id := "TDX_" + hex.EncodeToString(svn[1:2])
		for i := range info.TdxModuleIdentities {
			if strings.EqualFold(info.TdxModuleIdentities[i].ID, id) {
				versioned = &info.TdxModuleIdentities[i]
			}
		}
		if versioned == nil {
			return fmt.Errorf("it lists no TDX module %s", id)
		}
		module = moduleIdentity{versioned.Mrsigner.Bytes, versioned.Attributes.Bytes, versioned.AttributesMask.Bytes}
	}
	if err := module.holds(body); err != nil {
		return err
	}
	level := s.platformLevel(q, info.TcbLevels)
	if level == nil {
		return errors.New("its TCB is below every level that Intel lists")
	}
	s.Platform, s.Date = string(level.TcbStatus), level.TcbDate
	s.advise(level.AdvisoryIDs)
	if versioned == nil {
		return nil
	}
	for i := range versioned.TcbLevels {
		l := &versioned.TcbLevels[i]
		if uint32(svn[0]) >= l.Tcb.Isvsvn {
			if both := converge(s.Platform, string(l.TcbStatus)); both != s.Platform {
				s.Platform, s.Date = both, l.TcbDate
			}
			s.advise(l.AdvisoryIDs)
			return nil
		}
	}
	return errors.New("its TDX module is below every level that Intel lists")
}

// moduleIdentity is who made the TDX module and how it runs.
type moduleIdentity struct{ signer, attributes, mask []byte }

func (m moduleIdentity) holds(body *tpb.TDQuoteBody) error {
	if !bytes.Equal(m.signer, body.GetMrSignerSeam()) {
		return errors.New("its TDX module has another signer (MRSIGNERSEAM)")
	}
	if !maskedEqual(body.GetSeamAttributes(), m.mask, m.attributes) {
		return errors.New("its TDX module has other attributes (SEAMATTRIBUTES)")
	}
	return nil
}

// platformLevel is the first level whose every component the platform reaches. With a TDX module that has an
// identity of its own (TEE TCB SVN 1 above 0) the first two TDX components are the identity's to judge.
func (s *TCBStatus) platformLevel(q *tdQuote, levels []pcs.TcbLevel) *pcs.TcbLevel {
	svn := q.proto.GetTdQuoteBody().GetTeeTcbSvn()
	from := 0
	if svn[1] > 0 {
		from = 2
	}
	for i := range levels {
		l := &levels[i]
		if reaches(q.pck.TCB.CPUSvnComponents, l.Tcb.SgxTcbcomponents, 0) && q.pck.TCB.PCESvn >= l.Tcb.Pcesvn && reaches(svn, l.Tcb.TdxTcbcomponents, from) {
			return l
		}
	}
	return nil
}

func reaches(have []byte, want []pcs.TcbComponent, from int) bool {
	if len(have) != len(want) {
		return false
	}
	for i := from; i < len(have); i++ {
		if have[i] < want[i].Svn {
			return false
		}
	}
	return true
}

const maxAdvisories = 64

func (s *TCBStatus) advise(ids []string) {
	for _, id := range ids {
		if len(s.Advisories) < maxAdvisories && len(id) <= 64 && !slices.Contains(s.Advisories, id) {
			s.Advisories = append(s.Advisories, id)
		}
	}
}
