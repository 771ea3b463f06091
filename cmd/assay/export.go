package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/assay-verifier/assay/openapi/client"
)

// The media types of whole lists, by the name that --output has for them.
var exportTypes = map[string]string{"csv": "text/csv", "ndjson": "application/x-ndjson"}

// exportDoer asks for a whole list in another form than JSON and copies it, as it comes, to w. What the generated client
// then reads is an empty page.
type exportDoer struct {
	inner  client.HttpRequestDoer
	app    *app
	accept string
}

// Do implements client.HttpRequestDoer.
func (d *exportDoer) Do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Accept", d.accept)
	resp, err := d.inner.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), d.accept) {
		return nil, badAnswer(fmt.Errorf("it is %q, not %s", resp.Header.Get("Content-Type"), d.accept))
	}
	body := resp.Body
	if b, ok := body.(bounded); ok { // a list may be larger than any other answer, and is not held
		body = b.whole
	}
	last, err := copyLines(d.app.stdout, body)
	if err == nil && !complete(d.accept, last) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, &problem{Title: "The list is not complete", Code: "incomplete", Detail: err.Error(), Hint: "what was written is the beginning of it; ask again"}
	}
	resp.Header.Set("Content-Type", "application/json")
	resp.Body = io.NopCloser(strings.NewReader(`{"items":[],"next_cursor":null}`))
	return resp, nil
}

// copyLines copies r to w and keeps the last line, or the beginning of it.
func copyLines(w io.Writer, r io.Reader) (last []byte, err error) {
	const enough = 1 << 10
	lines := bufio.NewReaderSize(r, 64<<10)
	begun := true
	for {
		piece, err := lines.ReadSlice('\n')
		if begun && len(piece) > 0 {
			last = append(last[:0], piece[:min(len(piece), enough)]...)
		}
		begun = err == nil // the next piece begins a line
		if _, failed := w.Write(piece); failed != nil {
			return nil, failed
		}
		switch {
		case err == nil, errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return last, nil
		default:
			return nil, err
		}
	}
}

// complete tells whether a list ends as the service ends one that is whole.
func complete(media string, last []byte) bool {
	if media == exportTypes["csv"] {
		return bytes.HasPrefix(last, []byte("#complete,"))
	}
	var end struct{ Complete bool }
	return json.Unmarshal(last, &end) == nil && end.Complete
}

// listing is the client that asks for lists as the command line wants them: in an order, and in another form than JSON.
func (a *app) listing(p Paging) (c *client.ClientWithResponses, exports bool, err error) {
	if c, err = a.api(); err != nil {
		return nil, false, err
	}
	accept, exports := exportTypes[a.cli.Output]
	exports = exports && p.Listed
	inner, ok := c.ClientInterface.(*client.Client)
	if !ok || (!exports && p.Sort == "") {
		return c, false, nil
	}
	with := *inner
	if exports {
		if !p.All {
			return nil, false, &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
				Detail: "--output " + a.cli.Output + " is of whole lists: add --all"}
		}
		with.Client = &exportDoer{inner: inner.Client, app: a, accept: accept}
	}
	with.RequestEditors = append(append([]client.RequestEditorFn(nil), inner.RequestEditors...), p.order)
	return &client.ClientWithResponses{ClientInterface: &with}, exports, nil
}
