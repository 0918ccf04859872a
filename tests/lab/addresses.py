"""The lab's addresses and names; namespace.py gives the interface all of 127.0.0.1 to 127.0.0.31."""

RESOLVER = "127.0.0.1"  # unbound, validating; the only name server in resolv.conf
PRIMARY = "127.0.0.2"  # BIND: corp.example, alias.example (signed, dynamic), insecure.example, expired.example
SECONDARY = "127.0.0.3"  # BIND: corp.example, alias.example by transfer
KNOT = "127.0.0.5"  # Knot: knot.example, and the zones that are cut off from corp.example (signed, dynamic)
ROOT = "127.0.0.6"  # BIND: a private root and example., signed
NSD = "127.0.0.7"  # NSD: the zones that are cut off, by transfer
SENDER = "127.0.0.9"  # Postfix that sends, dane-only
MX1 = "127.0.0.10"  # Postfix that receives
MX2 = "127.0.0.11"  # for a second mail server
IMAP = "127.0.0.12"
ACME = "127.0.0.14"  # Pebble: ACME at 14000, management at 15000
SPARE = "127.0.0.20"  # nothing ever listens here
SMTPD = "127.0.0.21"  # OpenSMTPD
SENDMAIL = "127.0.0.22"

ZONE = "corp.example"  # not .test, which unbound answers by itself
CUT_ZONE = f"cut.{ZONE}"  # another zone below it, unsigned
TCP_ZONE = f"_tcp.mx1.{ZONE}"  # others below it, signed, while a test cuts them off
ACME_ZONE = f"_acme-challenge.mx1.{ZONE}"
ALIAS_ZONE = "alias.example"  # where CNAMEs of ZONE may lead
STEALTH_ZONE = "stealth.example"  # its primary, which takes updates, is none of its name servers
KNOT_ZONE = "knot.example"
INSECURE_ZONE = "insecure.example"  # unsigned
EXPIRED_ZONE = "expired.example"  # bogus: its signatures have ended
