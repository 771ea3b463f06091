package ui

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

type notificationsView struct {
	Channels   []channelRow
	Deliveries []store.Delivery
	Tabs       []choice
	CanTest    bool
	Done       string
	Paging     paging
}

type channelRow struct {
	store.Channel
	Receiver string
}

// ReasonText says why a channel is disabled.
func (c *channelRow) ReasonText() string {
	switch c.DisabledReason {
	case store.DisabledGone:
		return "Given up: its receiver is gone"
	case store.DisabledFailing:
		return "Given up: it failed for days"
	}
	return "Disabled"
}

// notificationDone is what the page says after a change.
var notificationDone = map[string]string{
	"delivered": "The test event was delivered.", "failed": "The test event was not delivered; the last error says why.", "replayed": "It is delivered again.",
}

// notifications lists the channels, and dead deliveries unless another state, or "all", is asked for.
func (h *handler) notifications(w http.ResponseWriter, r *http.Request, s session) error {
	state, err := filterValue(r, "status")
	if err != nil {
		return err
	}
	f := store.DeliveryFilter{State: state}
	tab := state
	switch state {
	case "":
		tab, f.State = store.DeliveryDead, store.DeliveryDead
	case "all":
		f.State = ""
	}
	channels, _, err := h.Store.ListChannels(r.Context(), s.Tenant, "", store.Page{Limit: 500})
	if err != nil {
		return err
	}
	deliveries, next, err := h.Store.ListDeliveries(r.Context(), s.Tenant, f, pageOf(r))
	if err != nil {
		return err
	}
	view := notificationsView{Deliveries: deliveries, Tabs: tabs(r, tab, store.DeliveryDead, store.DeliveryPending, store.DeliveryDelivered, "all"),
		CanTest: h.TestChannel != nil, Done: notificationDone[r.URL.Query().Get("done")], Paging: pagingOf(r, next)}
	for _, c := range channels {
		row := channelRow{c, c.Config.Address}
		if c.Kind == store.ChannelWebhook {
			row.Receiver = c.Config.Shown().URL
		}
		view.Channels = append(view.Channels, row)
	}
	h.render(w, r, s, http.StatusOK, "notifications", "Notifications", view)
	return nil
}

// changeChannel tests a channel, or delivers what is dead again.
func (h *handler) changeChannel(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	done := "replayed"
	switch action := r.PathValue("action"); {
	case action == "test" && h.TestChannel != nil:
		done, err = h.testChannel(r, s, id)
	case action == "replay":
		_, err = h.Store.ReplayChannel(r.Context(), s.Tenant, id, h.now(), s.actor(r))
	default:
		return errNoPage
	}
	return afterReplay(w, r, err, done)
}

func (h *handler) testChannel(r *http.Request, s session, id uuid.UUID) (done string, err error) {
	_, result, err := h.TestChannel(r.Context(), s.Tenant, id, s.actor(r))
	if err != nil {
		return "", fmt.Errorf("test a channel: %w", err)
	}
	if result.State == store.DeliveryDelivered {
		return "delivered", nil
	}
	return "failed", nil
}

// replayDelivery delivers one again.
func (h *handler) replayDelivery(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	_, err = h.Store.ReplayDelivery(r.Context(), s.Tenant, id, h.now(), s.actor(r))
	return afterReplay(w, r, err, "replayed")
}

func afterReplay(w http.ResponseWriter, r *http.Request, err error, done string) error {
	if errors.Is(err, store.ErrConflict) {
		return errDeliveryState
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/notifications?done="+done, http.StatusSeeOther) // #nosec G710 -- a word of ours
	return nil
}
