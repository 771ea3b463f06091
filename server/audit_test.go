package server

import (
	"bytes"
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/assay-verifier/assay/verifier/bundle"
)

// auditing reads the record, makes checkpoints and takes a bundle.
func auditing(b *bench, m *machine) {
	all := b.want(200, "GET", "/v1/audit-events?sort=seq&limit=500", b.admin, nil).json(b.t)["items"].([]any)
	first := all[0].(map[string]any)
	if first["seq"] != 1.0 || first["prev_hash"] != strings.Repeat("0", 64) || first["action"] != "tenant.create" {
		b.t.Errorf("the first event: %v", first)
	}
	one := b.want(200, "GET", "/v1/audit-events/"+first["id"].(string), b.reader(), nil).json(b.t)
	if one["hash"] != first["hash"] || one["hash"] == nil {
		b.t.Errorf("one event: %v", one)
	}
	b.refused("not_found", "", "GET", "/v1/audit-events/"+nobody, b.admin, nil)
	count := func(query string) int {
		return len(b.want(200, "GET", "/v1/audit-events?limit=500&"+query, b.admin, nil).json(b.t)["items"].([]any))
	}
	if n := count("action=api_token.create&actor_kind=system"); n != 1 { // the first administrator's
		b.t.Errorf("%d tokens made by the service itself", n)
	}
	if a, o := count("action=verdict.change&target="+url.QueryEscape("machine:"+m.id)), count("target_kind=machine&action=verdict.change"); a == 0 || o < a {
		b.t.Errorf("%d changes of the machine's verdicts, %d of all", a, o)
	}
	if n := count("since=2099-01-01T00:00:00Z"); n != 0 {
		b.t.Errorf("%d events of the future", n)
	}
	marked := b.want(201, "POST", "/v1/join-tokens", b.admin, `{"name": "marked", "uses": 1}`, "X-Request-Id", "audit-probe")
	if n := count("request_id=audit-probe"); n != 1 || marked.status != 201 {
		b.t.Errorf("%d events of one request", n)
	}

	made := b.want(201, "POST", "/v1/audit-checkpoints", b.admin, nil).json(b.t)
	got := b.want(200, "GET", "/v1/audit-checkpoints/"+made["id"].(string), b.reader(), nil).json(b.t)
	if got["statement"] != made["statement"] || got["jwk"] == nil || made["number"] != 1.0 {
		b.t.Errorf("checkpoint %v, got %v", made, got)
	}
	b.want(200, "GET", "/v1/audit-checkpoints", b.reader(), nil)
	b.refused("not_found", "", "GET", "/v1/audit-checkpoints/"+nobody, b.admin, nil)

	archive := b.want(200, "GET", "/v1/audit-bundle?machine_id="+m.id, b.admin, nil)
	r, err := bundle.Open(bytes.NewReader(archive.body), int64(len(archive.body)))
	if err != nil {
		b.t.Fatal(err)
	}
	if machines, verdicts := r.Counts(); machines != 1 || verdicts < 2 || archive.header.Get("Cache-Control") != "no-store" {
		b.t.Errorf("a bundle of %d verdicts of %d machines, %v", verdicts, machines, archive.header)
	}
	if n := count("action=verdicts.export&target=" + url.QueryEscape("machine:"+m.id)); n != 1 {
		b.t.Errorf("%d events tell of the export", n)
	}
	b.refused("not_found", "", "GET", "/v1/audit-bundle?machine_id="+nobody, b.admin, nil)
	for range maxExports {
		b.server.exports <- struct{}{}
	}
	b.refused("export_running", "", "GET", "/v1/audit-bundle", b.admin, nil)
	for range maxExports {
		<-b.server.exports
	}
}

func (b *bench) reader() string {
	b.t.Helper()
	return b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "auditor", "role": "reader"}`).text(b.t, "token")
}

// secretMembers are those members of requests and answers that hold secrets: each that the contract has.
var secretMembers = regexp.MustCompile(`"(token|secret|password|result_token|machine_token|credential_blob|encrypted_secret)"\s*:\s*"([^"]{8,})"`)

// handedOut are the secrets that went over the wire in a test.
type handedOut struct {
	mu   sync.Mutex
	seen map[string]string // by secret, the member that held it
}

func (h *handedOut) note(body []byte) {
	for _, found := range secretMembers.FindAllSubmatch(body, -1) {
		if len(bytes.Trim(found[2], "A=")) == 0 { // made up by a test, and part of much else
			continue
		}
		h.mu.Lock()
		if h.seen == nil {
			h.seen = map[string]string{}
		}
		h.seen[string(found[2])] = string(found[1])
		h.mu.Unlock()
	}
}

// recordWithoutSecrets looks for every secret that the whole test has sent or been given in every event of the record.
func recordWithoutSecrets(b *bench, _ *machine) {
	kinds := map[string]int{}
	for _, member := range b.secrets.seen {
		kinds[member]++
	}
	for _, member := range []string{"token", "secret", "password", "machine_token"} {
		if kinds[member] == 0 {
			b.t.Errorf("no %s went over the wire: the test sees nothing (%v)", member, kinds)
		}
	}
	actions := map[string]bool{}
	cursor := ""
	for {
		page := b.want(200, "GET", "/v1/audit-events?sort=seq&limit=500"+cursor, b.admin, nil)
		text := string(page.body)
		for secret, member := range b.secrets.seen {
			escaped, _ := json.Marshal(secret)
			if strings.Contains(text, secret) || strings.Contains(text, strings.Trim(string(escaped), `"`)) {
				b.t.Errorf("a %s is in the record of changes: %s", member, secret)
			}
		}
		var list struct {
			Items      []struct{ Action string }
			NextCursor *string `json:"next_cursor"`
		}
		if err := json.Unmarshal(page.body, &list); err != nil {
			b.t.Fatal(err)
		}
		for _, e := range list.Items {
			actions[e.Action] = true
		}
		if list.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *list.NextCursor
	}
	if len(actions) < 40 {
		b.t.Errorf("only %d kinds of changes were made: %v", len(actions), actions)
	}
}
