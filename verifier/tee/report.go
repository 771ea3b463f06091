package tee

// Report is what a piece of hardware evidence proves. Only Verify makes one.
type Report struct {
	technology Technology
	rtmrs      [4][]byte // TDX, 48 bytes each
}

// Technology is the hardware that made the report.
func (r *Report) Technology() Technology { return r.technology }

// RTMR is a run-time measurement register of a TDX machine (SHA-384); ok is false where there is none. The
// bytes must not be modified.
func (r *Report) RTMR(index int) (value []byte, ok bool) {
	if r == nil || index < 0 || index >= len(r.rtmrs) || r.rtmrs[index] == nil {
		return nil, false
	}
	return r.rtmrs[index], true
}
