//go:build pkcs11

package hsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/assay-verifier/assay/store/keyring"
)

// callTime bounds one operation, the wait for others included. A call into a module cannot be ended: one that hangs holds the
// token, and all that come after it are refused in time.
const callTime = 20 * time.Second

// token is one token with the session that works in it.
type token struct {
	cfg     Config
	module  *pkcs11.Ctx
	turn    chan struct{} // holds one value while somebody works
	slot    uint
	session pkcs11.SessionHandle
	open    bool  // session can be used
	refused error // set once the PIN was refused
}

// newToken loads the module and finds the token. A module stays loaded for as long as the process lives, since others may use it.
func newToken(cfg Config) (*token, error) {
	if cfg.Module == "" || cfg.Token == "" || cfg.PIN.Empty() {
		return nil, errors.New("a module, a token and its PIN are needed")
	}
	t := &token{cfg: cfg, module: pkcs11.New(cfg.Module), turn: make(chan struct{}, 1)}
	if t.module == nil {
		return nil, fmt.Errorf("%s cannot be loaded as a PKCS #11 module", cfg.Module)
	}
	if err := t.module.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return nil, fmt.Errorf("%s does not begin: %w", cfg.Module, err)
	}
	return t, nil
}

func is(err error, code pkcs11.Error) bool {
	var e pkcs11.Error
	return errors.As(err, &e) && e == code
}

// find is the slot of the one token with the label.
func (t *token) find() (slot uint, err error) {
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("list the slots: %w", err)
	}
	found, labels := 0, []string{}
	for _, s := range slots {
		info, err := t.module.GetTokenInfo(s)
		if err != nil {
			continue // a token that was just pulled out
		}
		label := strings.TrimRight(info.Label, " \x00")
		if label == t.cfg.Token {
			slot, found = s, found+1
		} else if label != "" {
			labels = append(labels, fmt.Sprintf("%.32q", label))
		}
	}
	switch {
	case found > 1:
		return 0, fmt.Errorf("%d tokens have the label %q", found, t.cfg.Token)
	case found == 0:
		return 0, fmt.Errorf("no token has the label %q; there are: %s", t.cfg.Token, strings.Join(append(labels, "no other"), ", "))
	}
	return slot, nil
}

// ensure opens a session and signs in, where that is not done yet.
func (t *token) ensure() (err error) {
	if t.refused != nil || t.open {
		return t.refused
	}
	if t.slot, err = t.find(); err != nil {
		return err
	}
	// Read and write is what Generate needs; it makes no difference to the rest.
	if t.session, err = t.module.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return fmt.Errorf("open a session: %w", err)
	}
	err = t.module.Login(t.session, pkcs11.CKU_USER, string(t.cfg.PIN.Reveal()))
	switch {
	case err == nil, is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN): // signing in is the process's, not the session's
		t.open = true
		return nil
	case is(err, pkcs11.CKR_PIN_INCORRECT), is(err, pkcs11.CKR_PIN_LOCKED), is(err, pkcs11.CKR_PIN_EXPIRED),
		is(err, pkcs11.CKR_PIN_INVALID), is(err, pkcs11.CKR_PIN_LEN_RANGE):
		t.refused = fmt.Errorf("%w (%w)", ErrRefused, err)
		err = t.refused
	default:
		err = fmt.Errorf("sign in: %w", err)
	}
	_ = t.module.CloseSession(t.session)
	return err
}

// lost tells of an error after which another session may do what this one could not.
func lost(err error) bool {
	for _, code := range []pkcs11.Error{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_SLOT_ID_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID} {
		if is(err, code) {
			return true
		}
	}
	return false
}

// do works in the token: one at a time, and a second time in a new session where the first was lost.
func (t *token) do(ctx context.Context, work func() ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("the token %q is busy: %w", t.cfg.Token, ctx.Err())
	}
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-t.turn }()
		out, err := t.attempt(work)
		if err != nil && lost(err) {
			_ = t.module.CloseSession(t.session) // of a session that is gone it fails
			t.open = false
			out, err = t.attempt(work)
		}
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("the token %q does not answer: %w", t.cfg.Token, ctx.Err())
	}
}

func (t *token) attempt(work func() ([]byte, error)) ([]byte, error) {
	if err := t.ensure(); err != nil {
		return nil, err
	}
	return work()
}

// object is the handle of the one secret key with the label.
func (t *token) object(label string) (pkcs11.ObjectHandle, error) {
	err := t.module.FindObjectsInit(t.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)})
	if err != nil {
		return 0, fmt.Errorf("look for the key %q: %w", label, err)
	}
	handles, _, err := t.module.FindObjects(t.session, 2)
	if err = errors.Join(err, t.module.FindObjectsFinal(t.session)); err != nil {
		return 0, fmt.Errorf("look for the key %q: %w", label, err)
	}
	switch len(handles) {
	case 1:
		return handles[0], nil
	case 0:
		return 0, fmt.Errorf("%w: the token %q has no secret key %q", ErrKey, t.cfg.Token, label)
	}
	return 0, fmt.Errorf("%w: the token %q has several secret keys %q", ErrKey, t.cfg.Token, label)
}

var _ keyring.Wrapper = (*key)(nil)
