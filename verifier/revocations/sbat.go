package revocations

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Level is an SBAT revocation level: the least generation of each component that may run (rhboot/shim, SBAT.md,
// section "SbatLevel"). It is what the variable SbatLevel holds.
type Level struct {
	// Version is its date, as it stands there: 2025021800.
	Version    string
	Components []Generation // in its order, "sbat" left out
}

// Generation is the least generation of a component.
type Generation struct {
	Component string `json:"component"`
	Least     int    `json:"least"`
}

// Bounds of a level.
const (
	MaxLevel      = 4096 // bytes
	maxComponents = 128
	maxGeneration = 65535
)

// ParseLevel reads the text of a level: "sbat,1,<date>" and a line "component,generation" for each component. Errors
// name the line.
func ParseLevel(raw []byte) (*Level, error) {
	if len(raw) > MaxLevel {
		return nil, fmt.Errorf("%d bytes are more than %d", len(raw), MaxLevel)
	}
	lines := strings.Split(strings.TrimRight(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n\x00"), "\n")
	head := strings.Split(lines[0], ",")
	if len(head) != 3 || head[0] != "sbat" || head[1] != "1" || len(head[2]) != 10 {
		return nil, fmt.Errorf("line 1: %q is not \"sbat,1,\" and a date of ten digits", clean(lines[0]))
	}
	if _, err := time.Parse("20060102", head[2][:8]); err != nil || strings.Trim(head[2], "0123456789") != "" {
		return nil, fmt.Errorf("line 1: %q is no date", clean(head[2]))
	}
	level := &Level{Version: head[2]}
	if len(lines)-1 > maxComponents {
		return nil, fmt.Errorf("%d components are more than %d", len(lines)-1, maxComponents)
	}
	seen := map[string]bool{"sbat": true}
	for i, line := range lines[1:] {
		name, generation, found := strings.Cut(line, ",")
		least, err := strconv.Atoi(generation)
		switch {
		case !found || err != nil || least < 1 || least > maxGeneration || strconv.Itoa(least) != generation:
			return nil, fmt.Errorf("line %d: %q is not a component and its generation", i+2, clean(line))
		case !componentName(name) || seen[name]:
			return nil, fmt.Errorf("line %d: %q names no component, or one that was named before", i+2, clean(line))
		}
		seen[name] = true
		level.Components = append(level.Components, Generation{name, least})
	}
	return level, nil
}

func componentName(name string) bool {
	return name != "" && len(name) <= 64 && strings.IndexFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }) < 0
}

// least is the least generation of a component; 0 where the level does not name it.
func (l *Level) least(component string) int {
	for _, c := range l.Components {
		if c.Component == component {
			return c.Least
		}
	}
	return 0
}
