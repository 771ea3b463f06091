package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// predicted shows what a pipeline can register before any machine boots its image: PCRs computed from the files alone.
func (s *story) predicted() error {
	title("The pipeline that built the web image knows its measurements before a machine boots it.")
	facts, keys := filepath.Join("baseline", "predict", "testdata"), filepath.Join("baseline", "predict", "testdata", "efivars", "microsoft")
	body := filepath.Join(s.WorkDir, "predicted.json")
	args := []string{"baselines", "predict", "--manifest", filepath.Join(s.Boots, "cmdline", "truth.json"), "--manifest", filepath.Join(facts, "debian-12.manifest.json"),
		"--pk", filepath.Join(keys, "PK"), "--kek", filepath.Join(keys, "KEK"), "--secure-boot-db", filepath.Join(keys, "db"), "--secure-boot-dbx", filepath.Join(keys, "dbx")}
	out, err := s.assay(args...)
	if err != nil {
		return err
	}
	fmt.Printf("$ assay %s > %s\n", strings.Join(args, " "), body)
	if err := os.WriteFile(body, []byte(out), 0o600); err != nil {
		return err
	}
	if err := s.showAs([]int{0, 1}, "baselines", "dry-run", "--reference-values", body, "--for", "web-1,web-3"); err != nil {
		return err
	}
	fmt.Println("  Nothing was recorded: the stored evidence of both machines was judged by what was predicted.")
	return nil
}

// rolledOut approves the changed command line of web-3 into a version of the baseline, moves web-1 to it and back.
func (s *story) rolledOut() error {
	title("web-3's command line was announced. Before anybody approves it, Assay says what that would allow.")
	alert, err := s.alertOf("web-3")
	if err != nil {
		return err
	}
	web1, web3 := s.machines[0], s.machines[2]
	for _, step := range []func() error{
		func() error { return s.show("alerts", "approve", alert, "--preview", "--replace") },
		func() error {
			return s.show("alerts", "approve", alert, "--replace", "--comment", "change 4711", "--grace-for", "72h", "--until-moved", "95%")
		},
		func() error { return web3.attestAndTell("affirming", "") },
		func() error {
			title("web-1 reboots into the new version; the old one stays valid until 95 %% have moved, for three days at most.")
			return web1.rebootInto("cmdline")
		},
		func() error { return web1.attestAndTell("affirming", "") },
		func() error { return s.show("baselines", "rollout", "web golden") },
		func() error {
			title("web-1 goes back to the old version. It is valid still, and yet somebody should know.")
			return web1.rebootInto("sb-on-2")
		},
		func() error { return web1.attestAndTell("affirming", "") },
		func() error { return s.show("alerts", "--machine", "web-1") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// rebootInto resets the machine's TPM and boots something recorded.
func (m *machine) rebootInto(boot string) error {
	if err := m.tpm.Reset(m.story.ctx); err != nil {
		return err
	}
	return m.bootRecorded(boot)
}

// alertOf is the id of the machine's open alert about a failed attestation.
func (s *story) alertOf(machine string) (string, error) {
	out, err := s.assay("alerts", "--machine", machine, "--output", "json")
	if err != nil {
		return "", err
	}
	var list struct {
		Items []struct{ ID, Code string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return "", fmt.Errorf("reading the alerts: %w", err)
	}
	for _, a := range list.Items {
		if a.Code == "attestation_failed" {
			return a.ID, nil
		}
	}
	return "", fmt.Errorf("%s has no alert about its attestation", machine)
}
