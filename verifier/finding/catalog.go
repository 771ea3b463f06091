package finding

import (
	"cmp"
	"slices"
)

//go:generate go test -run ^TestCatalogPage$ . -args -write

// Filter chooses entries of the catalogue; what is empty chooses all.
type Filter struct {
	Kind     Kind
	Severity Severity
	Area     string
	System   string // "linux" or "windows": without the rules that are about the other alone
	Platform string // "azure" and so on: without the rules that are about others alone
}

// Catalog lists the rules that a filter chooses, by area and code.
func Catalog(f Filter) []*Rule {
	out := slices.DeleteFunc(slices.Clone(Rules), func(r *Rule) bool { return !f.chooses(r) })
	slices.SortFunc(out, func(a, b *Rule) int {
		return cmp.Or(cmp.Compare(slices.Index(Areas, a.Area), slices.Index(Areas, b.Area)), cmp.Compare(a.Code, b.Code))
	})
	return out
}

func (f *Filter) chooses(r *Rule) bool {
	return (f.Kind == "" || slices.Contains(r.Kinds, f.Kind)) && (f.Severity == "" || r.Severity == f.Severity) && (f.Area == "" || r.Area == f.Area) &&
		(f.System == "" || !aboutOthers(r, systems, f.System)) && (f.Platform == "" || !aboutOthers(r, platforms, f.Platform))
}

// aboutOthers tells whether all steps of a rule are for names of the list, and none of them for name.
func aboutOthers(r *Rule, list []string, name string) bool {
	for key := range r.Steps {
		if key == name || !slices.Contains(list, key) {
			return false
		}
	}
	return true
}

// StepsFor are the remediation steps by whom they are for ("" is all), without those of other systems and
// platforms than the named ones; an empty name leaves out nothing. They must not be changed.
func (r *Rule) StepsFor(system, platform string) map[string][]string {
	out := make(map[string][]string, len(r.Steps))
	for key, steps := range r.Steps {
		other := system != "" && key != system && slices.Contains(systems, key) || platform != "" && key != platform && slices.Contains(platforms, key)
		if !other {
			out[key] = steps
		}
	}
	return out
}
