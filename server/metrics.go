package server

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/notify"
)

// Metrics are the service's numbers, kept with OpenTelemetry and read by Prometheus:
//
//	assay_http_requests_total{method,route,status}            requests answered
//	assay_http_request_duration_seconds{method,route}         time to answer
//	assay_appraisals_total{status,reason}                     verdicts, repeated ones included
//	assay_appraisal_duration_seconds{status}                  time to judge and record
//	assay_notification_attempts_total{channel,state}          attempts to deliver; state: delivered, pending (again later), dead
//	assay_notification_attempt_duration_seconds{channel}      time of an attempt
//	assay_notifications{state}                                deliveries that are pending and dead, over all replicas
//	assay_notifications_oldest_pending_seconds                age of the oldest pending delivery; 0 for none
//
// Route is the pattern of the contract, never a path, and no label holds what a client chose.
type Metrics struct {
	registry         *prometheus.Registry
	provider         *sdkmetric.MeterProvider
	requests         metric.Int64Counter
	requestSeconds   metric.Float64Histogram
	appraisals       metric.Int64Counter
	appraisalSeconds metric.Float64Histogram
	deliveries       metric.Int64Counter
	deliverySeconds  metric.Float64Histogram
	standing         metric.Int64Gauge
	oldest           metric.Float64Gauge
	limited          metric.Int64Counter
	reloads          metric.Int64Counter
	certificateEnds  metric.Int64Gauge
	sets             sync.Map // label values -> metric.MeasurementOption, so that a request builds none
}

// durationBounds suit answers from below a millisecond to the write timeout, in seconds.
var durationBounds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}

// NewMetrics makes a set of metrics in a registry of its own, with those of the Go runtime and the process.
func NewMetrics() (*Metrics, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	m := &Metrics{registry: registry, provider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))}
	meter := m.provider.Meter("github.com/assay-verifier/assay/server")
	buckets := metric.WithExplicitBucketBoundaries(durationBounds...)
	if m.requests, err = meter.Int64Counter("assay_http_requests", metric.WithDescription("Requests answered.")); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if m.requestSeconds, err = meter.Float64Histogram("assay_http_request_duration", metric.WithUnit("s"), buckets, metric.WithDescription("Time to answer a request.")); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if m.appraisals, err = meter.Int64Counter("assay_appraisals", metric.WithDescription("Verdicts, repeated ones included.")); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if m.appraisalSeconds, err = meter.Float64Histogram("assay_appraisal_duration", metric.WithUnit("s"), buckets, metric.WithDescription("Time to judge and record evidence.")); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err := m.addLimits(); err != nil {
		return nil, err
	}
	return m, m.addNotifications(meter, buckets)
}

func (m *Metrics) addNotifications(meter metric.Meter, buckets metric.HistogramOption) (err error) {
	if m.deliveries, err = meter.Int64Counter("assay_notification_attempts", metric.WithDescription("Attempts to deliver a notification.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if m.deliverySeconds, err = meter.Float64Histogram("assay_notification_attempt_duration", metric.WithUnit("s"), buckets, metric.WithDescription("Time of an attempt to deliver a notification.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if m.standing, err = meter.Int64Gauge("assay_notifications", metric.WithDescription("Deliveries that are pending and dead.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if m.oldest, err = meter.Float64Gauge("assay_notifications_oldest_pending", metric.WithUnit("s"), metric.WithDescription("Age of the oldest pending delivery.")); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Delivery counts one attempt; it is what notify.Config.Observe takes.
func (m *Metrics) Delivery(o notify.Observation) {
	ctx := context.Background()
	m.deliveries.Add(ctx, 1, m.labels("channel", o.ChannelKind, "state", o.State, "", ""))
	m.deliverySeconds.Record(ctx, o.Duration.Seconds(), m.labels("channel", o.ChannelKind, "", "", "", ""))
}

// Deliveries keeps how deliveries stand; it is what notify.Config.Stats takes.
func (m *Metrics) Deliveries(pending, dead int64, oldest time.Duration) {
	ctx := context.Background()
	m.standing.Record(ctx, pending, m.labels("state", "pending", "", "", "", ""))
	m.standing.Record(ctx, dead, m.labels("state", "dead", "", "", "", ""))
	m.oldest.Record(ctx, oldest.Seconds())
}

// Appraisal counts one appraisal; it is what attest.Config.Observe takes.
func (m *Metrics) Appraisal(o attest.Observation) {
	ctx := context.Background()
	reason := string(o.Reason)
	if reason == "" {
		reason = "none"
	}
	m.appraisals.Add(ctx, 1, m.labels("status", o.Status.String(), "reason", reason, "", ""))
	m.appraisalSeconds.Record(ctx, o.Duration.Seconds(), m.labels("status", o.Status.String(), "", "", "", ""))
}

func (m *Metrics) request(method, route string, status int, took time.Duration) {
	ctx := context.Background()
	m.requests.Add(ctx, 1, m.labels("method", method, "route", route, "status", strconv.Itoa(status)))
	m.requestSeconds.Record(ctx, took.Seconds(), m.labels("method", method, "route", route, "", ""))
}

// labels makes the attribute set of up to three labels, once for each combination of values.
func (m *Metrics) labels(kv ...string) metric.MeasurementOption {
	key := [6]string(kv)
	if set, ok := m.sets.Load(key); ok {
		return set.(metric.MeasurementOption)
	}
	var attrs []attribute.KeyValue
	for i := 0; i < len(key); i += 2 {
		if key[i] != "" {
			attrs = append(attrs, attribute.String(key[i], key[i+1]))
		}
	}
	set, _ := m.sets.LoadOrStore(key, metric.WithAttributeSet(attribute.NewSet(attrs...)))
	return set.(metric.MeasurementOption)
}

// Handler serves the metrics in the text format of Prometheus.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
