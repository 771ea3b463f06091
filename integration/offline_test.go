package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	gotpm "github.com/google/go-tpm-tools/client"
	"github.com/google/go-tpm/tpmutil"
	"google.golang.org/protobuf/proto"
)

// offline runs `assay verify` on a file.
func offline(t *testing.T, args ...string) *verdict {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program("assay"), append([]string{"--output", "json", "verify"}, args...)...)
	cmd.Env = []string{"HOME=" + workDir}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("assay verify: %v\n%s%s", err, out, stderr.Bytes())
	}
	v := parseVerdict(t, out)
	if (err == nil) != (v.Status == "affirming") {
		t.Errorf("the exit (%v) does not fit the verdict %s", err, v.Status)
	}
	return v
}

func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(newFolder(t), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The CLI judges a file as the service judges the POST: the same checks, deviations and claims, for a boot
// that is as it was meant to be and one that is not. How the AK was proved, and what the TPM said before, only
// the service knows.
func TestOfflineSameVerdict(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "offline-web", "offline", "sb-on-1")
	m.attest().must(t, "affirming", "")
	var golden struct {
		Reference json.RawMessage `json:"reference_values"`
	}
	svc.post(t, "/v1/machines/"+m.id()+"/baseline", map[string]any{"name": "offline golden", "selector": map[string]any{"scale_set": []string{"offline"}}}, &golden)
	reference := writeFile(t, "reference.json", golden.Reference)

	for _, boot := range []string{"sb-on-2", "cmdline"} {
		m.reboot(boot)
		c := m.challenge()
		body := m.evidence(c)
		online := m.judged(body)

		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil {
			t.Fatal(err)
		}
		fields["enrollment"] = map[string]any{"ak_public": base64.StdEncoding.EncodeToString(m.agentState().AK.Public)}
		named, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		file := writeFile(t, "evidence.json", named)
		same := offline(t, "--evidence", file, "--nonce", hex.EncodeToString(c.Nonce), "--baseline", reference)
		if same.Status != online.Status || same.Reason != online.Reason || !reflect.DeepEqual(same.Deviations, online.Deviations) {
			t.Errorf("%s: offline %s %s %+v, online %s %s %+v", boot, same.Status, same.Reason, same.Deviations, online.Status, online.Reason, online.Deviations)
		}
		if len(same.Checks) != len(online.Checks) {
			t.Fatalf("%s: offline %+v, online %+v", boot, same.Checks, online.Checks)
		}
		for i, want := range online.Checks {
			got := same.Checks[i]
			if got.Code != want.Code || got.Status != want.Status || got.Detail != want.Detail && want.Code != "ak.trusted" && want.Code != "quote.clock" {
				t.Errorf("%s: offline %+v, online %+v", boot, got, want)
			}
		}
		if !bytes.Equal(same.Claims, online.Claims) {
			t.Errorf("%s: the claims differ", boot)
		}
		unchecked := offline(t, "--evidence", file, "--baseline", reference)
		if s := unchecked.check("quote.nonce").Status; s != "skipped" || unchecked.Status == "affirming" {
			t.Errorf("%s: without a nonce quote.nonce is %s and the verdict %s", boot, s, unchecked.Status)
		}
		wrong := bytes.Clone(c.Nonce)
		wrong[0] ^= 1
		offline(t, "--evidence", file, "--nonce", hex.EncodeToString(wrong), "--baseline", reference).must(t, "contraindicated", "origin_unverified", "quote.nonce")
	}
}

// A client of go-tpm-tools posts what `gotpm attest --format binarypb` writes, unmodified. It cannot activate
// a credential, so an administrator vouches for its key.
func TestGotpm(t *testing.T) {
	svc := sharedService(t)
	m := newMachine(t, svc, "gotpm-web", "gotpm")
	m.boot(bootLog(t, "sb-on-1"))
	device := tpmutil.NewEmulatorReadWriteCloser(m.box.Socket)
	defer func() { _ = device.Close() }()
	ak, err := gotpm.AttestationKeyECC(device)
	if err != nil {
		t.Fatal(err)
	}
	defer ak.Close()
	public, err := ak.PublicArea().Encode()
	if err != nil {
		t.Fatal(err)
	}

	var machine struct{ ID string }
	svc.call(t, http.MethodPost, "/v1/machines", svc.admin, map[string]any{"name": m.name, "os": "linux", "platform": "qemu", "security_type": "trusted_launch"}, http.StatusOK, &machine)
	var key struct {
		Assurance string
		Token     string `json:"machine_token"`
	}
	svc.post(t, "/v1/machines/"+machine.ID+"/attestation-keys", map[string]any{"ak_public": public, "comment": "asset 4711, checked by hand"}, &key)
	if key.Assurance != "first_use" {
		t.Errorf("assurance %s", key.Assurance)
	}
	var challenge struct{ Nonce []byte }
	svc.call(t, http.MethodPost, "/v1/machines/"+machine.ID+"/challenges", key.Token, nil, http.StatusCreated, &challenge)
	attestation, err := ak.Attest(gotpm.AttestOpts{Nonce: challenge.Nonce, TCGEventLog: readFile(t, m.log), SkipTeeAttestation: true})
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(attestation)
	if err != nil {
		t.Fatal(err)
	}
	got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+machine.ID+"/evidence", key.Token, "application/x-protobuf", body)
	if err != nil || got.status != http.StatusCreated {
		t.Fatalf("%v %d %s", err, got.status, got.body)
	}
	v := parseVerdict(t, got.body).must(t, "affirming", "")
	if v.Assurance != "first_use" {
		t.Errorf("assurance %s", v.Assurance)
	}
	same := offline(t, "--evidence", writeFile(t, "attestation.binarypb", body), "--nonce", hex.EncodeToString(challenge.Nonce))
	if same.Status != v.Status || !bytes.Equal(same.Claims, v.Claims) {
		t.Errorf("offline the verdict is %s, online %s, or the claims differ", same.Status, v.Status)
	}

	// The same attestation again is a replay, in this format too.
	got, err = svc.send(t.Context(), http.MethodPost, "/v1/machines/"+machine.ID+"/evidence", key.Token, "application/x-protobuf", body)
	if err != nil || got.status != http.StatusCreated {
		t.Fatalf("%v %d %s", err, got.status, got.body)
	}
	parseVerdict(t, got.body).must(t, "contraindicated", "origin_unverified", "quote.nonce")
}
