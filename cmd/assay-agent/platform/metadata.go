package platform

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// metadata asks Azure's instance metadata service, which answers on a link-local address of the host. It answers
// in plain HTTP, so that nothing of it is believed: the server verifies certificates and quotes.
type metadata struct {
	base string
	http *http.Client
}

const (
	metadataTimeout = 20 * time.Second
	maxMetadata     = 256 << 10
	maxChain        = 8
)

func newMetadata(base string) *metadata {
	return &metadata{base: base, http: &http.Client{
		// No proxy: the address means this machine's host only here.
		Transport:     &http.Transport{Proxy: nil, DisableKeepAlives: true, ResponseHeaderTimeout: metadataTimeout},
		Timeout:       metadataTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// RefusedError is an answer of the metadata service other than 200.
type RefusedError struct {
	What       string // the request
	Status     int
	RetryAfter time.Duration // 0 when the answer names none
}

// Error says what can be done.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%s: the metadata service answered %d %s", e.What, e.Status, http.StatusText(e.Status))
	switch {
	case e.Status == http.StatusTooManyRequests:
		text += "; it throttles, try later"
	case e.Status >= 300 && e.Status < 400:
		text += "; a redirect is not followed"
	case e.Status == http.StatusNotFound:
		text += "; is this a confidential VM of Azure?"
	}
	return text
}

// do sends one request and decodes its answer. What the service writes is not repeated in errors.
func (m *metadata) do(r *http.Request, out any) error {
	what := r.Method + " " + r.URL.String()
	r.Header.Set("Metadata", "true")
	r.Header.Set("Accept", "application/json")
	rsp, err := m.http.Do(r)
	if err != nil {
		return err // names method and address
	}
	defer rsp.Body.Close() //nolint:errcheck // only read from
	if rsp.StatusCode != http.StatusOK {
		refused := &RefusedError{What: what, Status: rsp.StatusCode}
		if n, err := strconv.Atoi(rsp.Header.Get("Retry-After")); err == nil && n > 0 {
			refused.RetryAfter = time.Duration(min(n, 24*3600)) * time.Second
		}
		return refused
	}
	body, err := io.ReadAll(io.LimitReader(rsp.Body, maxMetadata+1))
	if err != nil {
		return fmt.Errorf("%s: read the answer: %w", what, err)
	}
	if len(body) > maxMetadata {
		return fmt.Errorf("%s: the answer is longer than %d bytes", what, maxMetadata)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s: the answer is not the JSON that it should be: %w", what, err)
	}
	return nil
}

// certificates asks for the chip's certificate chain (Azure Trusted Hardware Identity Management): VCEK first, and
// the TCB that the VCEK is for.
func (m *metadata) certificates(ctx context.Context) (der [][]byte, tcb uint64, err error) {
	const path = "/metadata/THIM/amd/certification"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.base+path, nil)
	if err != nil {
		return nil, 0, err
	}
	var answer struct {
		VCEK  string `json:"vcekCert"`
		Chain string `json:"certificateChain"`
		TCB   string `json:"tcbm"`
	}
	if err := m.do(r, &answer); err != nil {
		return nil, 0, err
	}
	for rest := []byte(answer.VCEK + "\n" + answer.Chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := certificateDER(block.Bytes)
		if err != nil || block.Type != "CERTIFICATE" {
			return nil, 0, fmt.Errorf("GET %s: certificate %d of the answer, a PEM block %q: %w", path, len(der)+1, block.Type, err)
		}
		if der = append(der, cert); len(der) > maxChain {
			return nil, 0, fmt.Errorf("GET %s: the answer holds more than %d certificates", path, maxChain)
		}
	}
	if len(der) == 0 {
		return nil, 0, fmt.Errorf("GET %s: the answer holds no certificate", path)
	}
	if tcb, err = strconv.ParseUint(answer.TCB, 16, 64); err != nil {
		return nil, 0, fmt.Errorf("GET %s: the answer's tcbm: %w", path, err)
	}
	return der, tcb, nil
}

// tdQuote has a TD report quoted.
func (m *metadata) tdQuote(ctx context.Context, report []byte) ([]byte, error) {
	const path = "/acc/tdquote"
	body, err := json.Marshal(map[string]string{"report": base64.RawURLEncoding.EncodeToString(report)})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, m.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	var answer struct {
		Quote string `json:"quote"`
	}
	if err := m.do(r, &answer); err != nil {
		return nil, err
	}
	quote, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(answer.Quote, "="))
	if err == nil && len(quote) < minQuote {
		err = errors.New("it is shorter than a quote's fixed part")
	}
	if err != nil {
		return nil, fmt.Errorf("POST %s: the answer's quote: %w", path, err)
	}
	return quote, nil
}
