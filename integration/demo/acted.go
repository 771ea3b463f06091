package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// patience bounds the wait for what the service does by itself.
const patience = 30 * time.Second

// receiver is somebody who is told: a webhook's server that believes only what is signed.
type receiver struct {
	server *http.Server
	hook   *standardwebhooks.Webhook
	mu     sync.Mutex
	told   []told
	wrong  error // the first delivery that was not signed as it must be
}

// told is what the story shows of a delivery.
type told struct {
	Type string `json:"type"`
	Data struct {
		Incident struct {
			Title string `json:"title"`
		} `json:"incident"`
	} `json:"data"`
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 1<<20))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = r.hook.Verify(body, req.Header)
	}
	var t told
	if err == nil {
		err = json.Unmarshal(body, &t)
	}
	if err != nil {
		r.wrong = errors.Join(r.wrong, fmt.Errorf("a delivery: %w", err))
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.told = append(r.told, t)
	w.WriteHeader(http.StatusNoContent)
}

// await waits until an incident was told of whose title holds the text.
func (r *receiver) await(text string) (told, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		r.mu.Lock()
		i := slices.IndexFunc(r.told, func(t told) bool { return strings.Contains(t.Data.Incident.Title, text) })
		wrong := r.wrong
		var found told
		if i >= 0 {
			found = r.told[i]
		}
		r.mu.Unlock()
		switch {
		case wrong != nil:
			return told{}, wrong
		case i >= 0:
			return found, nil
		case time.Now().After(deadline):
			return told{}, fmt.Errorf("nobody was told within %s of an incident about %q", patience, text)
		}
	}
}

// subscribed lets a webhook be told of incidents. The receiver is this program, and ends with it.
func (s *story) subscribed() error {
	title("The security team's webhook asks to be told of incidents, each delivery signed (Standard Webhooks).")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	args := []string{"notifications", "create", "webhook", "--name", "demo team", "--incidents", "--url", "http://" + l.Addr().String() + "/hooks/assay"}
	out, err := s.assay(append(args, "--output", "json")...)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	var made struct {
		Secret string `json:"secret"`
	}
	if err := json.Unmarshal([]byte(out), &made); err != nil {
		return errors.Join(fmt.Errorf("reading the webhook: %w", err), l.Close())
	}
	hook, err := standardwebhooks.NewWebhook(made.Secret)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Printf("$ assay %s\n", strings.Join(args, " "))
	s.receiver = &receiver{hook: hook}
	s.receiver.server = &http.Server{Handler: s.receiver, ReadHeaderTimeout: patience}
	go func() { _ = s.receiver.server.Serve(l) }()
	return nil
}

// toldOnce shows that two machines that fail for one cause are one incident, of which people are told once.
func (s *story) toldOnce() error {
	title("web-6 boots the same changed initrd as web-5: two machines, one cause, one incident.")
	m, err := s.newMachine("web-6", "web", "trusted_launch")
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return m.bootRecorded("initrd-tampered") },
		m.enroll,
		func() error { return m.attestAndTell("contraindicated", "baseline_deviation") },
		func() error { return s.awaitMembers(2) },
		func() error { return s.show("incidents") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	t, err := s.receiver.await("initrd")
	if err != nil {
		return err
	}
	fmt.Printf("  The webhook was told, and the signature holds:\n    %s: %s\n", t.Type, t.Data.Incident.Title)
	// Nobody listens there when the story has ended.
	if _, err := s.assay("notifications", "delete", "demo team"); err != nil {
		return err
	}
	return s.receiver.server.Close()
}

// awaitMembers waits until an incident counts so many machines.
func (s *story) awaitMembers(n int) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		out, err := s.assay("incidents", "--output", "json")
		if err != nil {
			return err
		}
		var list struct {
			Items []struct {
				Open int `json:"open_alerts"`
			}
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil {
			return fmt.Errorf("reading the incidents: %w", err)
		}
		for _, i := range list.Items {
			if i.Open >= n {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no incident has %d machines after %s", n, patience)
		}
	}
}

// relied gives a relying party a result that it can check by itself.
func (s *story) relied() error {
	title("A database lets web-2 in only with a fresh result that Assay signed for it, which it checks itself.")
	const audience = "https://db.demo.example"
	file := filepath.Join(s.WorkDir, "web-2.jwt")
	args := []string{"token", "create", "web-2", "--audience", audience}
	out, err := s.assay(args...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		return err
	}
	fmt.Printf("$ assay %s > %s\n", strings.Join(args, " "), file)
	if err := s.show("token", "verify", file, "--audience", audience); err != nil {
		return err
	}
	title("For web-5, which booted a changed initrd, there is none.")
	out, err = s.command([]int{1}, "assay", "token", "create", "web-5", "--audience", audience)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != "" {
		return errors.New("a result was signed for a machine that failed")
	}
	fmt.Println("  refused")
	return nil
}

// recorded shows that nobody has to believe the service: the record is checked, and the verdicts are judged again without it.
func (s *story) recorded() error {
	title("Nobody has to believe Assay. An auditor keeps a signed checkpoint; whatever is altered or dropped before it shows.")
	checkpoint, bundle := filepath.Join(s.WorkDir, "checkpoint.json"), filepath.Join(s.WorkDir, "bundle.zip")
	if err := s.show("audit", "checkpoint", "create"); err != nil {
		return err
	}
	out, err := s.assay("audit", "checkpoint", "export")
	if err != nil {
		return err
	}
	if err := os.WriteFile(checkpoint, []byte(out), 0o600); err != nil {
		return err
	}
	fmt.Printf("$ assay audit checkpoint export > %s\n", checkpoint)
	if err := s.show("audit", "verify", "--checkpoint", checkpoint); err != nil {
		return err
	}
	title("All verdicts, with their evidence, judged again offline by the same engine.")
	if err := s.show("export", "--bundle", bundle); err != nil {
		return err
	}
	args := []string{"verify", "--bundle", bundle, "--checkpoint", checkpoint}
	if out, err = s.assay(args...); err != nil {
		return err
	}
	_, last, _ := strings.Cut(out, "\n\n")
	fmt.Printf("$ assay %s\n%s", strings.Join(args, " "), indent(last))
	return nil
}
