package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// explain is an error in the words of whoever can do something about it, and the exit code.
func explain(err error) (message string, code int) {
	var config *configError
	var listen *net.OpError
	var parse *pgconn.ParseConfigError
	switch {
	case errors.As(err, &config):
		return config.text, exitBadCall
	case errors.Is(err, syscall.EADDRINUSE) && errors.As(err, &listen):
		return fmt.Sprintf("the address %s is in use, perhaps by another assayd; --listen and --admin-listen choose others", listen.Addr), exitFailed
	case errors.Is(err, syscall.EACCES) && errors.As(err, &listen) && listen.Op == "listen":
		return fmt.Sprintf("this user may not listen on %s; ports below 1024 need CAP_NET_BIND_SERVICE", listen.Addr), exitFailed
	case errors.Is(err, embedded.ErrNotInstalled):
		return embedded.ErrNotInstalled.Error() + "\nor give an own one with --database-url", exitFailed
	case store.KeyProblem(err):
		return fmt.Sprintf("%v: --key-file, --key-pkcs11-module or --key-command has to give the key that sealed it, and no other of that id", err), exitFailed
	case errors.As(err, &parse):
		// Its text has the password blanked.
		return "--database-url cannot be used: " + parse.Error(), exitBadCall
	}
	return strings.TrimSpace(err.Error()), exitFailed
}
