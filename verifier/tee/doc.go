// Package tee judges the hardware evidence of confidential virtual machines: SEV-SNP attestation reports
// (AMD 56860, versions 2 to 5), TDX quotes (Intel TDX DCAP Quoting Library API, version 4), and the HCL
// report in which Azure's paravisor wraps either of them.
//
// # The chain that it proves
//
//	anchor (AMD ARK, Intel SGX Root CA)
//	  → intermediate (ASK, ASVK; PCK CA)
//	    → endorsement key (VCEK, VLEK; PCK, then the quoting enclave's key)
//	      → report or quote: launch measurement, TCB, guest policy, report_data
//	        → what report_data names: the runtime data of the paravisor with its HCLAkPub, or a nonce and an AK
//
// Verify proves the first four hops and answers a *Report, which nothing else makes. The last hop is
// Report.Binds, since only the caller knows which key signed the quote.
//
// # What is trusted
//
// Nothing that came with the evidence: certificates and collateral are material to build the chain with,
// and count only where they lead to an anchor in Trust. There is no built-in anchor, no network and no clock: what
// is missing is said to be missing. Package anchors has the vendors' roots as data.
//
// The reports are decoded and their signatures checked by go-sev-guest and go-tdx-guest. Their code runs behind
// bounds and a recover, since both slice untrusted input; what a certificate's extensions, TCB levels and
// policies mean is judged here.
package tee
