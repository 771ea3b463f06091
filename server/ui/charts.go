package ui

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// chart is a time series as a table, which a script draws.
type chart struct {
	ID    string
	Title string
	Note  string
	Lines []slice // key and name of each column
	Rows  []chartRow
}

type chartRow struct {
	At    time.Time
	Cells []string // numbers; empty where there is none
}

// chartRange is how far back the charts go.
type chartRange struct {
	name, label string
	since, step time.Duration
}

var chartRanges = []chartRange{
	{"24h", "24 hours", 24 * time.Hour, time.Hour},
	{"7d", "7 days", 7 * 24 * time.Hour, 6 * time.Hour},
	{"30d", "30 days", 30 * 24 * time.Hour, 24 * time.Hour},
}

// rangeOf reads which range is asked for; the first where none is.
func rangeOf(r *http.Request) (chartRange, []choice, error) {
	asked := r.URL.Query().Get("range")
	if asked == "" {
		asked = chartRanges[0].name
	}
	var chosen chartRange
	var tabs []choice
	for _, c := range chartRanges {
		if c.name == asked {
			chosen = c
		}
		tabs = append(tabs, choice{Value: c.name, Label: c.label, Selected: c.name == asked, Link: withQuery(r, "range", c.name) + "#charts"})
	}
	if chosen.name == "" {
		return chosen, nil, errBadFilter
	}
	return chosen, tabs, nil
}

// charts reads the time series of the overview.
func (h *handler) charts(ctx context.Context, tenant uuid.UUID, c chartRange, now time.Time) ([]chart, error) {
	r := store.SeriesRange{Since: now.Add(-c.since), Until: now, Step: c.step}
	series := map[store.Metric][]store.SeriesPoint{}
	for _, m := range []store.Metric{store.MachinesByStatus, store.VerdictsByStatus, store.AlertsOpened, store.AlertsClosed, store.TimeToAttest} {
		points, err := h.Store.Series(ctx, tenant, m, r)
		if err != nil {
			return nil, err
		}
		series[m] = points
	}
	alerts := chart{ID: "chart-alerts", Title: "Alerts opened and closed", Note: "Suppressed alerts are counted too.",
		Lines: []slice{{Key: "opened", Label: "Opened"}, {Key: "closed", Label: "Closed"}}}
	attest := chart{ID: "chart-time", Title: "Time to the first verdict, seconds", Note: "From when a machine became known, for machines whose first verdict came in the step: the bound that half of them, and nine of ten, did not exceed.",
		Lines: []slice{{Key: "p50", Label: "Half"}, {Key: "p90", Label: "Nine of ten"}}}
	for i, p := range series[store.AlertsOpened] {
		alerts.Rows = append(alerts.Rows, chartRow{p.At, []string{number(total(p)), number(total(series[store.AlertsClosed][i]))}})
		first := series[store.TimeToAttest][i]
		attest.Rows = append(attest.Rows, chartRow{p.At, []string{quantile(first, 0.5), quantile(first, 0.9)}})
	}
	return []chart{
		byStatus("chart-machines", "Machines by status", "At the end of each step.", store.MachinesByStatus, series),
		alerts,
		byStatus("chart-verdicts", "Verdicts recorded", "Changes of judgement; while a judgement stays the same, its verdict is counted up.", store.VerdictsByStatus, series),
		attest,
	}, nil
}

func byStatus(id, title, note string, m store.Metric, series map[store.Metric][]store.SeriesPoint) chart {
	c := chart{ID: id, Title: title, Note: note}
	for _, key := range m.Keys() {
		c.Lines = append(c.Lines, slice{Key: key, Label: statusWord(key)})
	}
	for _, p := range series[m] {
		row := chartRow{At: p.At}
		for _, key := range m.Keys() {
			row.Cells = append(row.Cells, number(p.Counts[key]))
		}
		c.Rows = append(c.Rows, row)
	}
	return c
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func total(p store.SeriesPoint) (n int64) {
	for _, v := range p.Counts {
		n += v
	}
	return n
}

// quantile is empty where there was no machine, or the quantile is above all bounds.
func quantile(p store.SeriesPoint, share float64) string {
	seconds, ok := p.Quantile(share)
	if !ok {
		return ""
	}
	return number(seconds)
}
