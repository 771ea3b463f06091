package schedule

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func nothing(context.Context) (string, error) { return "", nil }

func TestJobsNeedNames(t *testing.T) {
	good := Job{Name: "a", Every: time.Second, Run: nothing}
	for story, jobs := range map[string][]Job{
		"the same name": {good, good}, "no name": {{Every: 1, Run: nothing}}, "no interval": {{Name: "a", Run: nothing}}, "nothing to do": {{Name: "a", Every: 1}},
	} {
		if _, err := New(slog.Default(), jobs...); err == nil {
			t.Errorf("%s: accepted", story)
		}
	}
	if _, err := New(slog.Default(), good); err != nil {
		t.Error(err)
	}
}

// lockedBuffer is written by the scheduler and read by the test.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// Rounds come at the interval give or take a tenth, whatever becomes of the one before, and end with the context.
func TestScheduler(t *testing.T) {
	var log lockedBuffer
	var rounds atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	s, err := New(slog.New(slog.NewTextHandler(&log, nil)), Job{Name: "work", Every: time.Hour, Run: func(ctx context.Context) (string, error) {
		switch rounds.Add(1) {
		case 1:
			return "", errors.New("it broke")
		case 2:
			panic("it burst")
		case 3:
			return "it went well", nil
		}
		cancel()
		<-ctx.Done()
		return "", ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	var waits []time.Duration
	s.wait = func(d time.Duration) <-chan time.Time {
		waits = append(waits, d)
		now := make(chan time.Time, 1)
		now <- t0
		return now
	}
	s.Run(ctx)
	if rounds.Load() != 4 || len(waits) < 4 || waits[0] > 6*time.Minute {
		t.Errorf("%d rounds after waits of %v", rounds.Load(), waits)
	}
	for _, w := range waits[1:] {
		if w < 54*time.Minute || w > 66*time.Minute {
			t.Errorf("a wait of %s", w)
		}
	}
	for _, want := range []string{"it broke", "it burst", "it went well"} {
		if !strings.Contains(log.b.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, log.b.String())
		}
	}
	if strings.Contains(log.b.String(), "context canceled") {
		t.Errorf("the end is logged as a failure:\n%s", log.b.String())
	}
}

func TestOnce(t *testing.T) {
	jobs := []Job{{Name: "a", Every: 1, Run: func(context.Context) (string, error) { return "done", nil }}}
	if report, err := Once(t.Context(), jobs, "a"); report != "done" || err != nil {
		t.Errorf("%q, %v", report, err)
	}
	if _, err := Once(t.Context(), jobs, "b"); !errors.Is(err, ErrNoJob) {
		t.Error(err)
	}
}
