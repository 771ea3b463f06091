package integration_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// TestCVE20223500AFailureOfOursIsNoTrust: an exception in the verifier ended the rounds of a machine and left it trusted for ever
// (CVE-2022-3500). Here the database refuses to record an appraisal: nobody is answered a verdict or a result, what stood before is not
// renewed by a second, and the machine whose evidence could not be judged is told to be silent when its time is over, by itself. When the
// failure ends, the machine is well again at its next attestation.
func TestCVE20223500AFailureOfOursIsNoTrust(t *testing.T) {
	t.Parallel()
	svc := newService(t)
	svc.policy(t, "broken", map[string]any{"attestation_interval_seconds": 10, "stale_after_seconds": 30, "attestation_missing_delay_seconds": 0})
	m := booted(t, svc, "broken-web", "broken", "sb-on-1")
	m.attest().must(t, "affirming", "")
	db := svc.sql(t)
	for _, statement := range []string{
		`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the disk is on fire'; END $$`,
		`CREATE TRIGGER refuse BEFORE UPDATE ON machine_attestation_state FOR EACH ROW WHEN (NEW.last_challenge IS DISTINCT FROM OLD.last_challenge) EXECUTE FUNCTION refuse()`,
	} {
		if _, err := db.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	before := one[string](t, db, traces, m.id())
	for range 3 {
		got := m.submit(m.evidence(m.challenge()))
		if got.status < 500 || bytes.Contains(got.body, []byte("fire")) || bytes.Contains(got.body, []byte("affirming")) || bytes.Contains(got.body, []byte("result_token")) {
			t.Fatalf("evidence that could not be recorded: %d %s", got.status, got.body)
		}
	}
	if after := one[string](t, db, traces, m.id()); after != before {
		t.Errorf("evidence that was not recorded changed the machine:\n%s\n%s", before, after)
	}
	if !strings.Contains(svc.wholeLog(), "the disk is on fire") {
		t.Error("the log does not tell why")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if a := m.assessment("guest_attestation_healthy"); a.Status == "Unhealthy" && a.Cause == "stale" && len(m.list("alerts", "&status=active&code=attestation_missing")) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine is still trusted: %+v, %+v", m.assessment("guest_attestation_healthy"), m.list("alerts", ""))
		}
	}
	got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+m.id()+"/results", svc.admin, "application/json", []byte(`{"audience": "https://vault.example"}`))
	if err != nil || got.status != http.StatusConflict || problemCode(t, got) != "verdict_stale" {
		t.Errorf("a result about it: %v %d %s", err, got.status, got.body)
	}
	if _, err := db.Exec(t.Context(), `DROP TRIGGER refuse ON machine_attestation_state`); err != nil {
		t.Fatal(err)
	}
	m.attest().must(t, "affirming", "")
	if open := m.list("alerts", "&status=active"); len(open) != 0 {
		t.Errorf("the machine attested and has open alerts: %+v", open)
	}
}

// peakMemory is the most memory that a process has had, in bytes (proc(5), VmHWM).
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	for line := range strings.Lines(string(readFile(t, fmt.Sprintf("/proc/%d/status", pid)))) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kilobytes, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

// TestCVE202223951BombsCostNoMemory: a verifier unpacked whatever a machine sent (CVE-2022-23951). Here a body that grows to gigabytes is
// refused long before, by each encoding; evidence itself may not be packed at all; and the service's own memory shows that nothing grew.
func TestCVE202223951BombsCostNoMemory(t *testing.T) {
	t.Parallel()
	svc := newService(t)
	m := booted(t, svc, "bomb-web", "", "sb-on-1")
	m.attest().must(t, "affirming", "")
	const grown = 2 << 30
	zeros := make([]byte, 1<<20)
	pack := func(w interface {
		Write([]byte) (int, error)
		Close() error
	}) {
		t.Helper()
		for n := 0; n < grown; n += len(zeros) {
			if _, err := w.Write(zeros); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var gzipped, zstded bytes.Buffer
	pack(gzip.NewWriter(&gzipped))
	z, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	pack(z)
	state := m.agentState()
	put := func(path, contentType, encoding string, body []byte) (int, string) {
		t.Helper()
		method := http.MethodPut
		if strings.HasSuffix(path, "/evidence") {
			method = http.MethodPost
		}
		req, err := http.NewRequestWithContext(t.Context(), method, svc.url+"/v1/machines/"+state.MachineID+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + state.Bearer()}, "Content-Type": {contentType}, "Content-Encoding": {encoding}}
		rsp, err := svc.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rsp.Body.Close() }()
		var p struct{ Code string }
		if err := json.NewDecoder(rsp.Body).Decode(&p); err != nil {
			t.Fatal(err)
		}
		return rsp.StatusCode, p.Code
	}
	before := peakMemory(t, svc.cmd.Process.Pid)
	log := "/event-logs/" + strings.Repeat("ab", 32)
	for range 8 {
		for encoding, body := range map[string][]byte{"gzip": gzipped.Bytes(), "zstd": zstded.Bytes()} {
			if status, code := put(log, "application/octet-stream", encoding, body); status != http.StatusRequestEntityTooLarge || code != "body_too_large" {
				t.Fatalf("a bomb packed by %s: %d %s", encoding, status, code)
			}
			if status, code := put("/evidence", "application/json", encoding, body); status != http.StatusUnsupportedMediaType || code != "unsupported_encoding" {
				t.Fatalf("evidence packed by %s: %d %s", encoding, status, code)
			}
		}
	}
	if grew := peakMemory(t, svc.cmd.Process.Pid) - before; grew > 128<<20 {
		t.Errorf("the service grew by %d MiB", grew>>20)
	}
	m.attest().must(t, "affirming", "")
}

// TestCVE202223949NamesCannotForgeLines: a machine's id was written as it came, so that a machine could write lines into the log
// (CVE-2022-23949). Here no name, id, header or path with control characters is taken, and each line of the log is one of the service's
// own, in both formats.
func TestCVE202223949NamesCannotForgeLines(t *testing.T) {
	const forged = "FORGED-LINE"
	for _, format := range []string{"json", "text"} {
		svc := newService(t, "--log-level", "debug", "--log-format", format)
		m := newMachine(t, svc, "names-web", "")
		_, ek, ak := m.keys()
		for name, text := range map[string]string{"a line feed": "web\n" + forged, "a carriage return": "web\r" + forged,
			"an escape": "web\x1b[2K" + forged, "NUL": "web\x00" + forged, "a line separator": "web\u2028" + forged, "a bidirectional override": "web\u202e" + forged} {
			for _, field := range []string{"name", "external_id", "scale_set", "platform"} {
				var request map[string]any
				if err := json.Unmarshal(m.request(ek, ak), &request); err != nil {
					t.Fatal(err)
				}
				request["machine"].(map[string]any)[field] = text
				body, err := json.Marshal(request)
				if err != nil {
					t.Fatal(err)
				}
				got, err := svc.send(t.Context(), http.MethodPost, "/v1/enrollments", svc.joinToken(t), "application/json", body)
				if err != nil || got.status >= 500 {
					t.Fatalf("%s in %s: %v %d", name, field, err, got.status)
				}
				if text[3] < 0x20 && (got.status != http.StatusBadRequest || problemCode(t, got) != "invalid_field") {
					t.Errorf("%s in %s: %d %s", name, field, got.status, got.body)
				}
			}
		}
		for _, path := range []string{"/v1/machines/%0a" + forged, "/v1/machines?name=%0d%0a" + forged, "/v1/" + forged + "%00"} {
			if _, err := svc.send(t.Context(), http.MethodGet, path, svc.admin, "", nil); err != nil {
				t.Fatal(err)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, svc.url+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"X-Request-Id": {"one\t" + forged}, "User-Agent": {"curl\u2028" + forged}}
		rsp, err := svc.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = rsp.Body.Close()
		if strings.Contains(rsp.Header.Get("X-Request-Id"), forged) {
			t.Error("a request id with a tab was taken")
		}
		if err := svc.terminate(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(svc.wholeLog()) {
			var entry struct{ Time, Level, Msg string }
			ours := format == "json" && json.Unmarshal([]byte(line), &entry) == nil && entry.Time != "" && entry.Level != "" && entry.Msg != "" ||
				format == "text" && strings.HasPrefix(line, "time=") && strings.Contains(line, " level=") && strings.Contains(line, " msg=")
			if !ours || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x1b\x00\u2028\u202e") {
				t.Errorf("%s: not a line of the service's own: %q", format, line)
			}
		}
	}
}

// TestCVE202223950FilesAreTheirOwnersAlone: secrets lay in files that every user could read, and a socket at a place in /tmp that anybody
// could take first (CVE-2022-23948, CVE-2022-23950, CVE-2022-23952). Here no file of the service or of the agent is open to others, and
// neither puts anything where others may write.
func TestCVE202223950FilesAreTheirOwnersAlone(t *testing.T) {
	temporary := newFolder(t)
	t.Setenv("TMPDIR", temporary)
	svc := newService(t)
	m := booted(t, svc, "files-web", "", "sb-on-1")
	m.attest().must(t, "affirming", "")
	for name, dir := range map[string]string{"service": svc.dataDir, "agent": m.state} {
		found := 0
		if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if entry.IsDir() {
				if filepath.Base(path) == "postgres" {
					return fs.SkipDir // Postgres keeps its own files, and starts in no folder that others may read
				}
				if info.Mode().Perm()&0o022 != 0 {
					t.Errorf("%s: others may write into %s (%v)", name, path, info.Mode())
				}
				return nil
			}
			if found++; info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: others may read %s (%v)", name, path, info.Mode())
			}
			return nil
		}); err != nil || found == 0 {
			t.Fatalf("%s: %d files, %v", name, found, err)
		}
	}
	info, err := os.Stat(filepath.Join(svc.dataDir, "postgres", "data"))
	if err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("Postgres's data: %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(temporary)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if strings.HasPrefix(entry.Name(), "tpm") || strings.HasPrefix(entry.Name(), t.Name()) {
			continue // this test's own: swtpm's socket, and its state
		}
		t.Errorf("%s is in the folder for temporary files", entry.Name())
	}
}
