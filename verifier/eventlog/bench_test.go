package eventlog

import (
	"testing"
)

// A log of 34 KB and 120 events, as a server or a Linux laptop has it.
const benchLog = "testdata/eventlogs/baremetal/guard-set-h12ssl-values/eventlog.bin"

func BenchmarkParse(b *testing.B) {
	raw := readSpecimen(b, benchLog)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIterate reads every record and extends every digest: no event may allocate.
func BenchmarkIterate(b *testing.B) {
	log := mustParse(b, benchLog)
	g := log.last()
	b.ReportAllocs()
	for b.Loop() {
		s := scanner{raw: log.raw, offset: g.start, algorithms: g.algorithms, agile: true}
		s.offset = 32 + 37 // the header of two algorithms
		var r record
		for {
			more, err := s.next(&r)
			if err != nil {
				b.Fatal(err)
			}
			if !more {
				break
			}
			for i, a := range g.algorithms {
				if r.digests[i] != nil {
					extend(a.id, g.banks[i].value(a.size, int(r.pcr)), r.digests[i])
				}
			}
		}
	}
}

// BenchmarkReplayKnown replays a log that was replayed before: what an unchanged machine costs.
func BenchmarkReplayKnown(b *testing.B) {
	log, quote := mustParse(b, bootLog("sb-on-1")), quoteOf(b, "sb-on-1")
	b.ReportAllocs()
	for b.Loop() {
		m, report := Replay(quote, log)
		if report.Outcome != Replayed || m.Claims() == nil {
			b.Fatal(report)
		}
	}
}

// BenchmarkReplayFresh parses, replays and decodes a new log and draws its claims, with one quoted bank.
func BenchmarkReplayFresh(b *testing.B) {
	raw := readSpecimen(b, benchLog)
	pcrs := pcrFile(b, benchLog)
	for i := range pcrs {
		if pcrs[i].Alg.String() == "sha256" {
			pcrs = pcrs[i : i+1]
			break
		}
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		log, err := Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		m, report := log.replay(claimed(pcrs))
		if report.Outcome != Replayed || m.Claims() == nil {
			b.Fatal(report)
		}
	}
}
