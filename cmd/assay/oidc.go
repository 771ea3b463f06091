package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// What GitHub Actions gives a job with the permission id-token: write
// (docs.github.com, "OpenID Connect reference", "Methods for requesting the OIDC token").
const (
	githubTokenURL    = "ACTIONS_ID_TOKEN_REQUEST_URL"
	githubTokenBearer = "ACTIONS_ID_TOKEN_REQUEST_TOKEN" //nolint:gosec // the name of a variable
)

// githubTokenAge is how long a token is used before another is asked for: GitHub's live five minutes.
const githubTokenAge = 3 * time.Minute

// maxIDToken bounds an identity token, in bytes, as the service does.
const maxIDToken = 16 << 10

// bearer gives what a request authenticates with. A command that takes long asks more than once, since identity
// tokens are short-lived.
func (a *app) bearer() (func(context.Context) (string, error), error) {
	source := a.cli.OIDC
	if source == "" {
		token, err := a.token()
		return func(context.Context) (string, error) { return token, nil }, err
	}
	name, isVariable := strings.CutPrefix(source, "env:")
	switch {
	case a.cli.TokenFile != "":
		return nil, &problem{Title: "The command line cannot be used", Code: "usage", Detail: "--oidc and --token-file (or ASSAY_TOKEN_FILE) exclude each other", exit: exitBadCall}
	case source == "github":
		return a.githubToken()
	case isVariable:
		return func(context.Context) (string, error) { return oneToken("the variable "+name, a.getenv(name)) }, nil
	}
	return func(context.Context) (string, error) {
		body, err := os.ReadFile(source)
		if err != nil {
			return "", unreadable(source, "an identity token", err)
		}
		return oneToken(source, string(body))
	}, nil
}

// oneToken makes sure that a text is one JWT, without repeating it.
func oneToken(where, text string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" || len(token) > maxIDToken || strings.Count(token, ".") != 2 || strings.ContainsAny(token, " \r\n\t") {
		return "", &problem{Title: "There is no identity token", Code: "no_identity_token", Detail: where + " does not hold one JWT of at most 16 KiB", exit: exitBadCall}
	}
	return token, nil
}

// githubToken asks the runner for tokens, and for a new one when the last gets old.
func (a *app) githubToken() (func(context.Context) (string, error), error) {
	address, secret := a.getenv(githubTokenURL), a.getenv(githubTokenBearer)
	u, err := url.Parse(address)
	if address == "" || secret == "" || err != nil || (u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
		return nil, &problem{Title: "There is no identity token", Code: "no_identity_token", exit: exitBadCall,
			Detail: "--oidc github needs " + githubTokenURL + " and " + githubTokenBearer + ", which GitHub Actions sets",
			Hint:   "give the job the permission id-token: write"}
	}
	audience := a.cli.Audience
	if audience == "" {
		audience = strings.TrimRight(a.cli.Server, "/")
	}
	query := u.Query()
	query.Set("audience", audience)
	u.RawQuery = query.Encode()
	var mu sync.Mutex
	var token string
	var at time.Time
	return func(ctx context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if token != "" && a.now().Sub(at) < githubTokenAge {
			return token, nil
		}
		fresh, err := a.requestGitHubToken(ctx, u.String(), secret)
		if err != nil {
			return "", err
		}
		token, at = fresh, a.now()
		return token, nil
	}, nil
}

func (a *app) requestGitHubToken(ctx context.Context, address, secret string) (string, error) {
	failed := func(detail string) error {
		return &problem{Title: "GitHub gives no identity token", Code: "no_identity_token", Detail: detail, Hint: "give the job the permission id-token: write"}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", failed("its address cannot be used")
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	req.Header.Set("Accept", "application/json")
	defer a.progress("waiting for " + req.URL.Host)()
	// The request carries a secret: it goes where the runner says and nowhere else.
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req) //nolint:gosec // the runner says whom to ask
	if err != nil {
		return "", failed("the runner's token service cannot be reached")
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxIDToken))
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", failed(fmt.Sprintf("the runner's token service answers %d", resp.StatusCode))
	}
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return "", failed("the runner's token service answers no JSON")
	}
	return oneToken("the answer of the runner's token service", answer.Value)
}
