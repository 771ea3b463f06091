package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"sort"
	"strings"
)

// allowed are the licences of what may be part of a program of ours, by their SPDX identifiers: permissive ones, and the Mozilla
// Public License, which asks for the source of its own files alone. Those files are unchanged, and THIRD_PARTY.md says where they are.
var allowed = map[string]bool{"Apache-2.0": true, "MIT": true, "BSD-2-Clause": true, "BSD-3-Clause": true, "MPL-2.0": true, "PostgreSQL": true}

// Texts as words reads them: small letters and digits, one space between words. name stands where a licence names its holder.
const (
	apacheDigest = "f45538b138cf9aea39fa205de037a0bede8305e68281650e7ab809a8b3ebb2f0"
	mplDigest    = "f82071285728ca3ec7685ee9bc4acdae0b8267142a4d20b8f1805eabedb4a98a"

	name = `[\pL\pN ]{1,160}?`

	mitBody = `permission is hereby granted free of charge to any person obtaining a copy of this software and associated documentation files ` +
		`the software to deal in the software without restriction including without limitation the rights to use copy modify merge publish ` +
		`distribute sublicense and or sell copies of the software and to permit persons to whom the software is furnished to do so subject to ` +
		`the following conditions the above copyright notice and this permission notice shall be included in all copies or substantial portions ` +
		`of the software the software is provided as is without warranty of any kind express or implied including but not limited to the ` +
		`warranties of merchantability fitness for a particular purpose and noninfringement in no event shall the authors or copyright holders ` +
		`be liable for any claim damages or other liability whether in an action of contract tort or otherwise arising from out of or in ` +
		`connection with the software or the use or other dealings in the software`

	bsdStart = `redistribution and use in source and binary forms with or without modification are permitted provided that the following ` +
		`conditions are met (?:1 )?redistributions of source code must retain the above copyright notice this list of conditions and the ` +
		`following disclaimer (?:2 )?redistributions in binary form must reproduce the above copyright notice this list of conditions and the ` +
		`following disclaimer in the documentation and or other materials provided with the distribution `
	bsdNames = `(?:3 )?neither (?:the )?name of ` + name + ` nor the names of (?:its|their) contributors may be used to endorse or promote products ` +
		`derived from this software without specific prior written permission `
	bsdEnd = `this software is provided by ` + name + ` as is and any express or implied warranties including but not limited to the implied ` +
		`warranties of merchantability and fitness for a particular purpose are disclaimed in no event shall ` + name + ` be liable for any direct ` +
		`indirect incidental special exemplary or consequential damages including but not limited to procurement of substitute goods or ` +
		`services loss of use data or profits or business interruption however caused and on any theory of liability whether in contract strict ` +
		`liability or tort including negligence or otherwise arising in any way out of the use of this software even if advised of the ` +
		`possibility of such damage`
)

// texts are the licences that are told by their whole text. digest, where it is given, is the SHA-256 of what the form finds.
var texts = []struct {
	id     string
	form   *regexp.Regexp
	digest string
}{
	{"MIT", regexp.MustCompile(mitBody), ""},
	{"BSD-3-Clause", regexp.MustCompile(bsdStart + bsdNames + bsdEnd), ""},
	{"BSD-2-Clause", regexp.MustCompile(bsdStart + bsdEnd), ""},
	{"Apache-2.0", regexp.MustCompile(`apache license version 2 0 january 2004 .*? end of terms and conditions`), apacheDigest},
	{"MPL-2.0", regexp.MustCompile(`mozilla public license version 2 0 1 definitions .*? defined by the mozilla public license v 2 0`), mplDigest},
}

// aside is what may stand beside the text of a licence: its title, who holds the rights, and how the Apache licence is applied to one's
// own work.
var aside = []*regexp.Regexp{
	regexp.MustCompile(`appendix how to apply the apache license to your work .*? licensed under the apache license version 2 0 .*? limitations under the license`),
	regexp.MustCompile(`licensed under the apache license version 2 0 .*? limitations under the license`),
	regexp.MustCompile(`(?:the )?mit license(?: mit)?`),
	regexp.MustCompile(`bsd (?:2|3) clause license`),
	regexp.MustCompile(`(?:original work |modified work )?copyright (?:c )?(?:\d{4} ?)+` + `[\pL\pN\pS ]{0,120}`),
	regexp.MustCompile(`all rights reserved`),
}

// words reduces a text to its words, so that line breaks, quotes and bullets make no difference.
func words(text string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(text) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r > 127 {
			if gap && b.Len() > 0 {
				b.WriteByte(' ')
			}
			gap = false
			b.WriteRune(r)
		} else {
			gap = true
		}
	}
	return b.String()
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// classify tells the licence of a text as an SPDX expression. Everything in the text must be a licence that is known, word by word, or
// stand aside; what is left over is an error that quotes it, so that nothing is accepted that nobody has read.
func classify(text string) (string, error) {
	rest := words(text)
	var found []string
	for _, t := range texts {
		for {
			at := t.form.FindStringIndex(rest)
			if at == nil {
				break
			}
			if body := rest[at[0]:at[1]]; t.digest != "" && digestOf(body) != t.digest {
				return "", fmt.Errorf("says that it is %s, and is another text (SHA-256 of its words %s)", t.id, digestOf(body))
			}
			if len(found) == 0 || found[len(found)-1] != t.id {
				found = append(found, t.id)
			}
			rest = rest[:at[0]] + "\n" + rest[at[1]:]
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("is no licence that is known")
	}
	for _, form := range aside {
		rest = form.ReplaceAllString(rest, "\n")
	}
	if rest = strings.Join(strings.Fields(rest), " "); rest != "" {
		return "", fmt.Errorf("holds more than a licence that is known: %.200q", rest)
	}
	sort.Strings(found)
	return strings.Join(found, " AND "), nil
}

// readLicences are texts that hold more than classify knows and that somebody has read. Each is pinned by the SHA-256 of its words:
// another text is read again.
var readLicences = map[string]struct{ digest, expression string }{
	// A part of one file comes from Go's protobuf.
	"cel.dev/cel-go": {"62b818cae20aefb00989509833b8e7862350fbd1b4423c2b78a13de32b53ada6", "Apache-2.0 AND BSD-3-Clause"},
	// Two holders, named by their addresses.
	"github.com/golang-migrate/migrate/v4": {"3bae2480d3995e88d16ce1e0274a9c7759dc7db2f050ad1e4555cc1fef30ba10", "MIT"},
	// The list of codes is PostgreSQL's.
	"github.com/jackc/pgerrcode": {"dc552c0a3ab914e6a9aafcbd3f318b14ef48467fcd69f255027553be8724b977", "MIT AND PostgreSQL"},
	// By folder: gzhttp is Apache-2.0, a part of the commands MIT, the rest Go's.
	"github.com/klauspost/compress": {"78cac5ab7ca01c14f99430d0f265194fd6a07140beb18f0cdeed0a4219372db5", "Apache-2.0 AND BSD-3-Clause AND MIT"},
	// By file: what comes from libyaml is MIT.
	"github.com/oasdiff/yaml3": {"5b3f60b9509868bb21147ba9bc20a13d061d4f1b1ddb9ba919cbb21b8c0c0337", "Apache-2.0 AND MIT"},
	"go.yaml.in/yaml/v3":       {"5b3f60b9509868bb21147ba9bc20a13d061d4f1b1ddb9ba919cbb21b8c0c0337", "Apache-2.0 AND MIT"},
	// The Apache licence without its last line.
	"github.com/santhosh-tekuri/jsonschema/v6": {"37599287c15c2f2ec060c3c3b55bdf69e3bc7a8aeeb9cd57e18800088789538a", "Apache-2.0"},
}

// licenceOf tells the licence of a module's text, and refuses what is not allowed.
func licenceOf(module, text string) (string, error) {
	expression, err := classify(text)
	if read, ok := readLicences[module]; ok && err != nil {
		if got := digestOf(words(text)); got != read.digest {
			return "", fmt.Errorf("%s: its licence has changed (SHA-256 of its words %s): read it, and say so in readLicences", module, got)
		}
		expression, err = read.expression, nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: its licence %w (SHA-256 of its words %s)", module, err, digestOf(words(text)))
	}
	for _, id := range strings.Split(expression, " AND ") {
		if !allowed[id] {
			return "", fmt.Errorf("%s: licence %s is not among those that are allowed", module, id)
		}
	}
	return expression, nil
}
