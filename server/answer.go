package server

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// jsonAnswer is the answer of an operation whose shape is not one of the generated types: where it is
// marshalled without a copy (verdicts), or where it is JSON already.
type jsonAnswer struct {
	status int
	body   any
}

func (a jsonAnswer) write(w http.ResponseWriter) error {
	b, err := json.Marshal(a.body)
	if err != nil {
		return err
	}
	writeJSON(w, a.status, b)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) //nolint:gosec // JSON with its own content type and nosniff; an error means that the client went away
}

// VisitListMachineVerdictsResponse implements openapi.ListMachineVerdictsResponseObject.
func (a jsonAnswer) VisitListMachineVerdictsResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitListVerdictsResponse implements openapi.ListVerdictsResponseObject.
func (a jsonAnswer) VisitListVerdictsResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitGetVerdictResponse implements openapi.GetVerdictResponseObject.
func (a jsonAnswer) VisitGetVerdictResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitGetVerdictEventLogResponse implements openapi.GetVerdictEventLogResponseObject.
func (a jsonAnswer) VisitGetVerdictEventLogResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitGetPolicyResponse implements openapi.GetPolicyResponseObject.
func (a jsonAnswer) VisitGetPolicyResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitPutPolicyResponse implements openapi.PutPolicyResponseObject.
func (a jsonAnswer) VisitPutPolicyResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitListPoliciesResponse implements openapi.ListPoliciesResponseObject.
func (a jsonAnswer) VisitListPoliciesResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitListPolicyVersionsResponse implements openapi.ListPolicyVersionsResponseObject.
func (a jsonAnswer) VisitListPolicyVersionsResponse(w http.ResponseWriter) error { return a.write(w) }

// VisitListPolicyTemplatesResponse implements openapi.ListPolicyTemplatesResponseObject.
func (a jsonAnswer) VisitListPolicyTemplatesResponse(w http.ResponseWriter) error { return a.write(w) }
