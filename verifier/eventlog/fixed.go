package eventlog

// fixedActions are the strings of EV_EFI_ACTION (PFP 1.06, section 10.4.4) that name no software, by their digests.
var fixedActions = func() []constant {
	var out []constant
	for _, s := range []string{
		"Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option",
		"Exit Boot Services Invocation", "Exit Boot Services Returned with Success", "Exit Boot Services Returned with Failure",
		"Booting to OS", "Start Option ROM Scan", "Entering ROM Based Setup", "Calling INT 19h", "Calling INT 18h",
		"Returned INT 19h", "Return via INT 18h",
	} {
		out = append(out, newConstant([]byte(s)), newConstant([]byte(s+"\x00")))
	}
	return out
}()

// FixedText tells whether an event is a separator, or one of firmware's fixed strings: by its digests alone, so that
// nothing else can be called so. A separator with an error is neither.
func FixedText(e *Event) bool {
	if found, failed := isSeparator(e); found {
		return !failed
	}
	for _, c := range fixedActions {
		if c.is(e.Digests) {
			return true
		}
	}
	return false
}
