package ui_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
)

// The page shows channels, what could not be delivered, and sends it again; a reader sees no button.
func TestNotificationsPage(t *testing.T) {
	f := emptyFleet(t)
	now := f.now
	actor := store.Actor{Kind: "system", ID: "test"}
	ch, err := db.CreateChannel(t.Context(), f.tenant, store.Channel{ID: store.NewChannelID(now), Kind: store.ChannelWebhook, Name: "siem", Enabled: true, Format: "assay",
		Config: store.ChannelConfig{URL: "https://siem.example/<in>"}}, now, actor)
	must(t, err)
	_, d, err := db.AddTestDelivery(t.Context(), f.tenant, ch.ID, now, 1, actor, func(uuid.UUID, store.Channel) ([]byte, error) { return []byte(`{}`), nil })
	must(t, err)
	_, err = db.RecordAttempt(t.Context(), f.tenant, store.AttemptResult{DeliveryID: d.ID, ChannelID: ch.ID, Claim: d.Claim, At: now, State: store.DeliveryDead, Error: "the receiver answered 500"})
	must(t, err)
	state := store.DeliveryDelivered
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Authenticate: authenticate(f.clock), Now: f.clock, TestChannel: func(_ context.Context, _, channel uuid.UUID, _ store.Actor) (store.ClaimedDelivery, store.AttemptResult, error) {
		if channel != ch.ID {
			return store.ClaimedDelivery{}, store.AttemptResult{}, store.ErrNotFound
		}
		return d, store.AttemptResult{State: state}, nil
	}})
	must(t, err)
	site := httptest.NewServer(handler)
	defer site.Close()
	c := signIn(t, site, f.admin)
	const page = "/ui/notifications"
	_, body := get(t, c, site.URL+page)
	for _, want := range []string{"siem", "https://siem.example/&lt;in&gt;", "Failing", "the receiver answered 500", "Send a test", "Send again"} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing", want)
		}
	}
	token := url.Values{"csrf": {csrf(t, body)}}
	steps := func(path, want string) {
		res, _ := post(t, c, site.URL+path, token)
		if res.StatusCode != http.StatusSeeOther {
			t.Errorf("%s: %s", path, res.Status)
			return
		}
		if _, body := get(t, c, site.URL+res.Header.Get("Location")); !strings.Contains(body, want) {
			t.Errorf("%s: %q is not said", path, want)
		}
	}
	steps(page+"/"+ch.ID.String()+"/test", "was delivered")
	steps("/ui/deliveries/"+d.ID.String()+"/replay", "delivered again")
	steps(page+"/"+ch.ID.String()+"/replay", "delivered again")
	state = store.DeliveryDead
	steps(page+"/"+ch.ID.String()+"/test", "was not delivered")
	for path, status := range map[string]int{"/ui/deliveries/" + d.ID.String() + "/replay": 409, page + "/" + ch.ID.String() + "/nothing": 404, page + "/" + uuid.NewString() + "/test": 404} {
		if res, _ := post(t, c, site.URL+path, token); res.StatusCode != status {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	if _, body := get(t, c, site.URL+page+"?status=pending"); !strings.Contains(body, "Pending") {
		t.Error("what is pending is not shown")
	}
	if _, body := get(t, signIn(t, site, f.reader), site.URL+page+"?status=all"); strings.Contains(body, "Send") {
		t.Error("a reader is offered what he may not do")
	}
}
