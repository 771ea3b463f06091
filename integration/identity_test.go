package integration_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// identity is all that the store holds of who a machine is.
const identity = `SELECT concat_ws('|',
	(SELECT m::text FROM machines m WHERE m.machine_id = $1),
	(SELECT s::text FROM machine_attestation_state s WHERE s.machine_id = $1),
	(SELECT string_agg(k::text, ';' ORDER BY k.key_id) FROM attestation_keys k WHERE k.machine_id = $1),
	(SELECT string_agg(e::text, ';' ORDER BY e.enrollment_id) FROM enrollments e WHERE e.machine_id = $1))`

// A machine that exists with another EK or AK is refused, and nothing of it changes (CVE-2025-13609: whoever registered a name again took
// its identity over).
func TestIdentityConflict(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "identity-web", "identity", "sb-on-1")
	m.attest().must(t, "affirming", "")
	db := svc.sql(t)
	before := one[string](t, db, identity, m.id())

	otherTPM := newMachine(t, svc, m.name, m.scaleSet)
	otherTPM.boot(bootLog(t, "sb-on-1"))
	otherAK := *m
	otherAK.state = newFolder(t)
	renamed := *m // the EK of one machine under another name and id
	renamed.state, renamed.name = newFolder(t), "identity-clone"
	for name, impostor := range map[string]*machine{"another EK": otherTPM, "another AK": &otherAK, "another external id": &renamed} {
		token := svc.joinToken(t)
		out, err := impostor.agent("enroll", impostor.enrollArgs(token)...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "identity_conflict") {
			t.Errorf("%s: %v %s", name, err, out)
		}
		if after := one[string](t, db, identity, m.id()); after != before {
			t.Errorf("%s changed what is stored:\n%s\n%s", name, before, after)
		}
		if left := one[int](t, db, `SELECT uses_left FROM join_tokens ORDER BY token_id DESC LIMIT 1`); left != 50 {
			t.Errorf("%s: the refused enrolment took a use of the join token (%d left)", name, left)
		}
	}
	if n := one[int](t, db, `SELECT count(*) FROM machines WHERE name IN ('identity-web', 'identity-clone')`); n != 1 {
		t.Errorf("there are %d machines", n)
	}
	m.attest().must(t, "affirming", "")
}

// claim is one identity that enrols.
type claim struct {
	body     []byte
	accepted int
	refused  int
}

// newClaim makes an AK in a TPM and the enrolment of both.
func newClaim(t *testing.T, m *machine) *claim {
	t.Helper()
	c := &claim{}
	m.with(func(d *tpmdevice.Device) (err error) {
		ek, err := d.EK()
		if err != nil {
			return err
		}
		_, ak, err := d.CreateAK(tpmdevice.ECDSA)
		if err != nil {
			return errors.Join(err, ek.Close())
		}
		c.body, err = json.Marshal(client.EnrollmentRequest{
			Machine:       client.Machine{Name: "identity-race", ExternalID: "ext-identity-race", OS: "linux"},
			EKCertificate: ek.Certificate, EKCertificateChain: ek.Chain, EKPublic: ek.Public, AKPublic: ak.Public,
		})
		return errors.Join(err, ak.Close(), ek.Close())
	})
	return c
}

// Of several identities that enrol under one name at the same time exactly one wins, and it may come again
// (CVE-2025-13609, concurrently).
func TestConcurrentEnrolment(t *testing.T) {
	svc := sharedService(t)
	a, b := newMachine(t, svc, "identity-race", ""), newMachine(t, svc, "identity-race", "")
	claims := []*claim{newClaim(t, a), newClaim(t, a), newClaim(t, b)}
	token := svc.joinToken(t)
	var mu sync.Mutex
	var done sync.WaitGroup
	const each = 6
	for range each {
		for _, c := range claims {
			done.Go(func() {
				got, err := svc.send(t.Context(), http.MethodPost, "/v1/enrollments", token, "application/json", c.body)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Error(err)
				case got.status == http.StatusCreated:
					c.accepted++
				case got.status == http.StatusConflict && problemCode(t, got) == "identity_conflict":
					c.refused++
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			})
		}
	}
	done.Wait()
	winners := 0
	for i, c := range claims {
		if c.accepted > 0 {
			winners++
		}
		if c.accepted > 0 && c.refused > 0 || c.accepted+c.refused != each {
			t.Errorf("identity %d: %d accepted, %d refused", i, c.accepted, c.refused)
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d identities enrolled under one external id", winners, len(claims))
	}
	db := svc.sql(t)
	if n := one[int](t, db, `SELECT count(*) FROM machines WHERE external_id = 'ext-identity-race'`); n != 1 {
		t.Errorf("there are %d machines", n)
	}
	if n := one[int](t, db, `SELECT count(DISTINCT ak_name) FROM enrollments JOIN machines USING (tenant_id, machine_id) WHERE external_id = 'ext-identity-race'`); n != 1 {
		t.Errorf("%d attestation keys were admitted", n)
	}
	if n := one[int](t, db, `SELECT count(*) FROM enrollments e JOIN machines USING (tenant_id, machine_id)
		WHERE external_id = 'ext-identity-race' AND e.status = 'activation_required'`); n != 1 {
		t.Errorf("%d activations are pending", n)
	}
}
