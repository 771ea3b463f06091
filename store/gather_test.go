package store

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
)

// Callers that ask while a group is being answered are answered together, each with its own answer.
func TestGathererAnswersConcurrentCallersTogether(t *testing.T) {
	var groups [][]int // only the gatherer's goroutine touches it until stop
	began, proceed := make(chan struct{}), make(chan struct{})
	g := startGatherer(10, func(_ context.Context, group []int) ([]string, error) {
		if len(groups) == 0 {
			close(began)
			<-proceed
		}
		groups = append(groups, group)
		out := make([]string, len(group))
		for i, q := range group {
			out[i] = strconv.Itoa(q)
		}
		return out, nil
	})
	var wg sync.WaitGroup
	ask := func(q int) {
		wg.Go(func() {
			if a, err := g.do(t.Context(), q); err != nil || a != strconv.Itoa(q) {
				t.Errorf("asked %d, answered %q, %v", q, a, err)
			}
		})
	}
	ask(0)
	<-began
	for q := 1; q <= 10; q++ {
		ask(q)
	}
	for len(g.queue) < 10 { // all have asked
		select {
		case <-t.Context().Done():
			t.Fatal("the callers do not get into the queue")
		default:
		}
	}
	close(proceed)
	wg.Wait()
	g.stop()
	if len(groups) != 2 || len(groups[0]) != 1 || len(groups[1]) != 10 {
		t.Fatalf("groups %v, not one of 1 and one of 10", groups)
	}
}

func TestGathererFailures(t *testing.T) {
	broken := errors.New("broken")
	release := make(chan struct{})
	g := startGatherer(10, func(context.Context, []int) ([]int, error) {
		<-release
		return nil, broken
	})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.do(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller whose context ended: %v", err)
	}
	close(release)
	if _, err := g.do(t.Context(), 2); !errors.Is(err, broken) {
		t.Errorf("the statement's failure: %v", err)
	}
	g.stop()
	if _, err := g.do(t.Context(), 3); !errors.Is(err, errClosed) {
		t.Errorf("after stop: %v", err)
	}
}
