package main

import (
	"sort"
	"strconv"

	"github.com/assay-verifier/assay/openapi/client"
)

// OverviewCommand shows the fleet in numbers.
type OverviewCommand struct{}

// Run shows it.
func (c *OverviewCommand) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetOverviewWithResponse(a.ctx)
	x, raw, err := answer[client.Overview](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s", p.paint(bold, count(int(x.Machines), "machine")))
	p.counts("By last verdict", x.MachinesByStatus)
	p.counts("By platform", x.MachinesByPlatform)
	p.counts("Open alerts by severity", x.OpenAlertsBySeverity)
	p.counts("Open alerts by reason", x.OpenAlertsByReason)
	p.counts("Recommendations", x.RecommendationsByCode)
	p.counts("Guest attestation status", x.AssessmentsByStatus)
	p.line("")
	if x.SuppressedAlerts > 0 {
		p.field("suppressed alerts", strconv.FormatInt(x.SuppressedAlerts, 10))
	}
	if x.StaleMachines > 0 {
		p.field("silent machines", strconv.FormatInt(x.StaleMachines, 10))
	}
	if x.OldestAttestationAt != nil {
		p.field("oldest attestation", p.when(*x.OldestAttestationAt))
	}
	return nil
}

func (p *printer) counts(title string, counts client.Counts) {
	words := make([]string, 0, len(counts))
	for word, n := range counts {
		if n > 0 {
			words = append(words, word)
		}
	}
	if len(words) == 0 {
		return
	}
	sort.Slice(words, func(i, j int) bool {
		if counts[words[i]] != counts[words[j]] {
			return counts[words[i]] > counts[words[j]]
		}
		return words[i] < words[j]
	})
	p.heading("%s", title)
	for _, word := range words {
		p.line("  %6d  %s", counts[word], p.paint(statusColor(word), clean(word)))
	}
}
