package integration_test

import (
	"net/http"
	"testing"

	"github.com/assay-verifier/assay/integration/software"
)

// softMachine is a machine in software that the service knows: its key was vouched for.
type softMachine struct {
	*software.Machine
	id, token string
}

// newSoftMachine makes the key and has it vouched for.
func newSoftMachine(t *testing.T, svc *service, name string) *softMachine {
	t.Helper()
	m := &softMachine{}
	var err error
	if m.Machine, err = software.New(); err != nil {
		t.Fatal(err)
	}
	var machine struct{ ID string }
	svc.call(t, http.MethodPost, "/v1/machines", svc.admin, map[string]any{"name": name, "os": "linux", "platform": "qemu", "security_type": "trusted_launch", "scale_set": "soft"}, http.StatusOK, &machine)
	var key struct {
		Token string `json:"machine_token"`
	}
	svc.post(t, "/v1/machines/"+machine.ID+"/attestation-keys", map[string]any{"ak_public": m.Public}, &key)
	m.id, m.token = machine.ID, key.Token
	return m
}
