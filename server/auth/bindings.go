package auth

import (
	"slices"

	"github.com/google/uuid"
)

// Binding says which identities of one provider are the people whom it is about. What it gives them is not its business.
// The zero value is about nobody.
type Binding struct {
	ID         uuid.UUID `json:"-"`
	Name       string    `json:"-"`
	ProviderID uuid.UUID `json:"-"`

	// Subject is about the claim sub, Conditions about others; all must hold. One of them at least is needed.
	Subject    *Match      `json:"subject,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
}

// who is a rule about the same identities.
func (b *Binding) who() *Rule { return &Rule{Subject: b.Subject, Conditions: b.Conditions} }

// Check tells why a binding cannot be used, as Rule.Check does of a rule.
func (b *Binding) Check(issuer string) error { return b.who().checkWho(issuer) }

// Admits tells whether the binding is about an identity. An address is somebody's only where the issuer has verified it: a
// condition on email holds of no token whose email_verified is not true (OpenID Connect Core 1.0, section 5.1).
func (b *Binding) Admits(id *Identity) bool {
	if b.ProviderID != id.ProviderID {
		return false
	}
	if slices.ContainsFunc(b.Conditions, func(c Condition) bool { return names(c.Claim, "email") }) && !id.emailVerified() {
		return false
	}
	return b.who().Admit(id.Subject, id.Claims).Admits
}

// names tells whether a condition's claim is one, by its name or by a pointer to it.
func names(claim, name string) bool { return claim == name || claim == "/"+name }

// emailVerified is whether the issuer vouches for the address. Some write the truth value as a text.
func (i *Identity) emailVerified() bool {
	return slices.Equal(i.Claims.Values("email_verified"), []string{"true"})
}
