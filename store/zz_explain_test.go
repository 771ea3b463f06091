package store

import ("testing";"os")

func TestZZ(t *testing.T) { os.WriteFile("/tmp/w/J/q.sql", []byte(selectInputs), 0o644); os.WriteFile("/tmp/w/J/u.sql", []byte(extendRuns), 0o644) }
