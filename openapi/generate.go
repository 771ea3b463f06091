// Package openapi holds the contract of the service, openapi.yaml, and the code generated from it:
// types and strict server interface here, the typed client in openapi/client. Nothing else.
//
// After a change of openapi.yaml run `go generate ./openapi`; a test fails until it was done.
package openapi

import _ "embed" // for Document

//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config server.cfg.yaml openapi.yaml
//go:generate go run github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2 -config client/client.cfg.yaml openapi.yaml
//go:generate sh -c "sha256sum openapi.yaml server.cfg.yaml client/client.cfg.yaml server.gen.go client/client.gen.go > generated.sha256"

// Document is the contract as it is served at /openapi.yaml.
//
//go:embed openapi.yaml
var Document []byte
