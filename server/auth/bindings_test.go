package auth

import (
	"testing"

	"github.com/google/uuid"
)

// TestBindingsAreAboutSomebody refuses those that are about everybody of their issuer, in whatever form people are named.
func TestBindingsAreAboutSomebody(t *testing.T) {
	claim := func(name string, m Match) Binding { return Binding{Conditions: []Condition{{Claim: name, Match: m}}} }
	subject := func(m Match) Binding { return Binding{Subject: &m} }
	const google = "https://accounts.google.com"
	for _, x := range []struct {
		story, issuer string
		b             Binding
		usable        bool
	}{
		{"nothing", "https://login.example", Binding{}, false},
		{"a subject", "https://login.example", subject(Match{In: []string{"alice"}}), true},
		{"any subject", "https://login.example", subject(Match{Pattern: ".*"}), false},
		{"any number", google, subject(Match{Pattern: "[0-9]+"}), false},
		{"any UUID", "https://login.example", subject(Match{Pattern: "[0-9a-f-]{36}"}), false},
		{"any address", google, claim("email", Match{Pattern: ".+@.+"}), false},
		{"any domain", google, claim("hd", Match{Pattern: `.+\..+`}), false},
		{"an address", google, claim("email", Match{In: []string{"dora@example.com"}}), true},
		{"the addresses of a domain", google, claim("email", Match{Pattern: `[^@]+@example\.com`}), true},
		{"a domain", google, claim("hd", Match{In: []string{"example.com"}}), true},
		{"a group where anybody makes groups", google, claim("groups", Match{In: []string{"sec"}}), false},
		{"a group", "https://login.example", claim("groups", Match{In: []string{"sec"}}), true},
		{"both kinds of match", "https://login.example", subject(Match{In: []string{"a"}, Pattern: "a"}), false},
	} {
		if err := x.b.Check(x.issuer); (err == nil) != x.usable {
			t.Errorf("%s: %v", x.story, err)
		}
	}
}

func TestBindingsAdmitTheirOwn(t *testing.T) {
	provider := uuid.MustParse("01900000-0000-7000-8000-000000000001")
	claims, err := ParseClaims([]byte(`{"sub": "alice", "email": "alice@example.com", "email_verified": true}`))
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{ProviderID: provider, Subject: "alice", Claims: claims}
	b := Binding{ProviderID: provider, Subject: &Match{In: []string{"alice"}}}
	if !b.Admits(id) {
		t.Error("it does not admit whom it names")
	}
	other := b
	other.ProviderID = uuid.Max
	if other.Admits(id) || (&Binding{}).Admits(id) || (&Binding{ProviderID: provider}).Admits(id) {
		t.Error("it admits somebody of another provider, or everybody")
	}
	b.Conditions = []Condition{{Claim: "email", Match: Match{In: []string{"alice@example.com"}}}}
	if !b.Admits(id) {
		t.Error("a verified address is not taken")
	}
	id.Claims, _ = ParseClaims([]byte(`{"email": "alice@example.com", "email_verified": "yes"}`))
	if b.Admits(id) {
		t.Error("an address that nobody verified is taken")
	}
}
