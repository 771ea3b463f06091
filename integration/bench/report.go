package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// report is the result of a run; its JSON form is what --json gets.
type report struct {
	Machines    int        `json:"machines"`
	Concurrency int        `json:"concurrency"`
	Windows     int        `json:"windows"`
	Rows        int        `json:"rows,omitempty"`
	SteadyBody  int        `json:"steady_body_bytes,omitempty"`
	R           float64    `json:"r_micros"` // one RSA-2048 verification
	Calibrators []figure   `json:"calibrators"`
	Workloads   []figure   `json:"workloads"`
	Queries     []quantity `json:"queries,omitempty"`
	Outbreak    []quantity `json:"outbreak,omitempty"`     // W7
	ResidentMiB float64    `json:"resident_mib,omitempty"` // of assayd after W1
	// TrialOverSteady is what a machine costs in a dry run as a multiple of an unchanged attestation, TrialSeconds how long
	// the fleet takes, and TrialResidentMiB the most that assayd had resident meanwhile.
	TrialOverSteady  float64 `json:"trial_over_steady,omitempty"`
	TrialSeconds     float64 `json:"trial_seconds,omitempty"`
	TrialResidentMiB float64 `json:"trial_resident_mib,omitempty"`
	// BoundOverPlain is what an unchanged attestation of a tee_bound machine costs as a multiple of a plain one's.
	BoundOverPlain float64 `json:"bound_over_plain,omitempty"`
}

// figure is CPU time of one operation.
type figure struct {
	Name     string  `json:"name"`
	Micros   float64 `json:"micros"`
	Service  float64 `json:"service_micros,omitempty"`  // of it in assayd
	Postgres float64 `json:"postgres_micros,omitempty"` // of it in Postgres
	R        float64 `json:"r,omitempty"`               // as a multiple of R
	Goal     float64 `json:"goal_r,omitempty"`
	Limit    string  `json:"limit,omitempty"`
}

// quantity is a figure that is not a multiple of R.
type quantity struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Goal  string  `json:"goal,omitempty"`
}

func (r *report) add(name string, w spent, goal float64, limit string) {
	r.Workloads = append(r.Workloads, figure{Name: name, Micros: w.total, Service: w.service, Postgres: w.total - w.service,
		R: w.total / r.R, Goal: goal, Limit: limit})
}

func (r *report) write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

func (r *report) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "CPU time, median\tµs\tassayd\tPostgres\tx R\tgoal x R\tlimit\n")
	for _, f := range r.Calibrators {
		fmt.Fprintf(w, "%s\t%.1f\t\t\t%.1f\t\t\n", f.Name, f.Micros, f.Micros/r.R)
	}
	for _, f := range r.Workloads {
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%s\n", f.Name, f.Micros, f.Service, f.Postgres, f.R, f.Goal, f.Limit)
	}
	for _, q := range r.Queries {
		fmt.Fprintf(w, "%s (%d verdicts)\t%.2f %s\t\t\t\t%s\t\n", q.Name, r.Rows, q.Value, q.Unit, q.Goal)
	}
	for _, q := range r.Outbreak {
		fmt.Fprintf(w, "%s\t%.2f %s\t\t\t\t%s\t\n", q.Name, q.Value, q.Unit, q.Goal)
	}
	if r.BoundOverPlain > 0 {
		fmt.Fprintf(w, "tee_bound / plain, report unchanged\t%.2f\t\t\t\t1.10\t\n", r.BoundOverPlain)
	}
	if r.TrialSeconds > 0 {
		fmt.Fprintf(w, "W6 a machine / W1\t%.2f\t\t\t\t1.00\t\n", r.TrialOverSteady)
		fmt.Fprintf(w, "W6 dry run of %d machines\t%.2f s\t\t\t\t\t\n", r.Machines, r.TrialSeconds)
		fmt.Fprintf(w, "M most resident during W6\t%.0f MiB\t\t\t\t150\t\n", r.TrialResidentMiB)
	}
	if r.ResidentMiB > 0 {
		fmt.Fprintf(w, "M resident after W1 (%d machines)\t%.0f MiB\t\t\t\t150\t\n", r.Machines, r.ResidentMiB)
	}
	return w.Flush()
}
