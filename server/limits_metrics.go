package server

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/tlsfile"
)

// The metrics of limits and of TLS, beside those of Metrics:
//
//	assay_limited_total{limit}                   requests refused with 429 or 503, by the limit of the table in deploy/LIMITS.md
//	assay_gate_slots{gate}                       how much of this work is done at once
//	assay_gate_working{gate}, assay_gate_waiting{gate}
//	assay_connections{state}                     open connections of the public address; state: open, idle
//	assay_connections_accepted_total
//	assay_connections_closed_total{reason}       idle (gave way), total, source, rate (refused at once)
//	assay_tls_reloads_total{result}              loaded, refused
//	assay_tls_certificate_expiry_seconds         when the certificate ends, seconds since 1970

func (m *Metrics) meter() metric.Meter {
	return m.provider.Meter("github.com/assay-verifier/assay/server")
}

func (m *Metrics) addLimits() (err error) {
	if m.limited, err = m.meter().Int64Counter("assay_limited", metric.WithDescription("Requests refused by a limit.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if m.reloads, err = m.meter().Int64Counter("assay_tls_reloads", metric.WithDescription("Changes of the TLS files that were seen.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if m.certificateEnds, err = m.meter().Int64Gauge("assay_tls_certificate_expiry", metric.WithUnit("s"), metric.WithDescription("When the certificate ends, seconds since 1970.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// refuse counts a request that a limit refused.
func (m *Metrics) refuse(which string) {
	m.limited.Add(context.Background(), 1, m.labels("limit", which, "", "", "", ""))
}

// reloaded counts a change of the TLS files.
func (m *Metrics) reloaded(used bool) {
	result := "loaded"
	if !used {
		result = "refused"
	}
	m.reloads.Add(context.Background(), 1, m.labels("result", result, "", "", "", ""))
}

func (m *Metrics) noteCertificate(s *tlsfile.Source) {
	m.certificateEnds.Record(context.Background(), s.NotAfter().Unix())
}

// watchGates reads the gates whenever metrics are asked for.
func (m *Metrics) watchGates(gates map[gate]*limit.Gate) error {
	var gauges [3]metric.Int64ObservableGauge
	for i, about := range [...][2]string{{"assay_gate_slots", "How much of this work is done at once."}, {"assay_gate_working", "Slots that are taken."}, {"assay_gate_waiting", "Requests that wait for a slot, or are still sending."}} {
		var err error
		if gauges[i], err = m.meter().Int64ObservableGauge(about[0], metric.WithDescription(about[1])); err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
	}
	_, err := m.meter().RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for name, g := range gates {
			at, s := m.labels("gate", string(name), "", "", "", ""), g.Stats()
			o.ObserveInt64(gauges[0], s.Size, at)
			o.ObserveInt64(gauges[1], s.Working, at)
			o.ObserveInt64(gauges[2], s.Waiting, at)
		}
		return nil
	}, gauges[0], gauges[1], gauges[2])
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// watchConnections reads the listener whenever metrics are asked for, until stop is called.
func (m *Metrics) watchConnections(l *limit.Listener) (stop func() error, err error) {
	open, err := m.meter().Int64ObservableGauge("assay_connections", metric.WithDescription("Open connections of the public address."))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	accepted, err := m.meter().Int64ObservableCounter("assay_connections_accepted", metric.WithDescription("Connections accepted."))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	closed, err := m.meter().Int64ObservableCounter("assay_connections_closed", metric.WithDescription("Connections closed by a limit."))
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	r, err := m.meter().RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := l.Stats()
		for state, n := range map[string]int{"open": s.Open, "idle": s.Resting} {
			o.ObserveInt64(open, int64(n), metric.WithAttributes(attribute.String("state", state)))
		}
		o.ObserveInt64(accepted, s.Accepted)
		for reason, n := range map[string]int64{"idle": s.Evicted, "total": s.RefusedTotal, "source": s.RefusedSource, "rate": s.RefusedRate} {
			o.ObserveInt64(closed, n, metric.WithAttributes(attribute.String("reason", reason)))
		}
		return nil
	}, open, accepted, closed)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return r.Unregister, nil
}
