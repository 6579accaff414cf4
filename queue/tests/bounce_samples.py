"""Bounces and complaints in the forms that hosts write them in; made up for these tests, with the names of no one."""

from __future__ import annotations

TRACE = "msg_0194a1b2c3d4e5f60718293a4b"


def crlf(text: str) -> bytes:
    return text.strip("\n").replace("\n", "\r\n").encode() + b"\r\n"


def original(trace: str = TRACE, extra: str = "") -> str:
    return f"""{extra}Received: from web ([192.0.2.9])
\tby mail.example.com (mailproj) with HTTP id {trace}
\tfor <bob@dest.example>;
\tFri, 20 Nov 2026 12:00:00 +0000
From: Alice <alice@example.com>
To: bob@dest.example
Subject: Invitation
Message-ID: <inv.1@example.com>
"""


def rfc3464(
    *,
    to: str = "alice@example.com",
    final: str = "bob@dest.example",
    status: str = "5.1.1",
    diagnostic: str = "smtp; 550 5.1.1 <bob@dest.example>: Recipient address rejected: User unknown",
    action: str = "failed",
    returned: str = "",
    more: str = "",
    envelope_id: str = "",
) -> bytes:
    """As Postfix writes them."""
    return crlf(
        f"""From: MAILER-DAEMON@mx.dest.example (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: {to}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="8F21C.1700000000/mx.dest.example"

This is a MIME-encapsulated message.

--8F21C.1700000000/mx.dest.example
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx.dest.example.

I'm sorry to have to tell you that your message has come back.

--8F21C.1700000000/mx.dest.example
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.dest.example
X-Postfix-Queue-ID: 8F21C
{f"Original-Envelope-Id: {envelope_id}" if envelope_id else "X-Postfix-Sender: rfc822; x@example.com"}
Arrival-Date: Fri, 20 Nov 2026 12:00:02 +0000 (UTC)

Final-Recipient: rfc822; {final}
{more}Action: {action}
Status: {status}
Remote-MTA: dns; store.dest.example
Diagnostic-Code: {diagnostic}

--8F21C.1700000000/mx.dest.example
Content-Description: Undelivered Message Headers
Content-Type: text/rfc822-headers

{returned or original()}
--8F21C.1700000000/mx.dest.example--
"""
    )


POSTFIX = rfc3464()

EXIM_WITH_PARTS = crlf(
    f"""From: Mail Delivery System <Mailer-Daemon@exim.dest.example>
To: alice@example.com
Subject: Mail delivery failed: returning message to sender
X-Failed-Recipients: bob@dest.example
Auto-Submitted: auto-replied
Content-Type: multipart/report; report-type=delivery-status; boundary=1732104000-eximdsn-1804289383
MIME-Version: 1.0

--1732104000-eximdsn-1804289383
Content-type: text/plain; charset=us-ascii

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  bob@dest.example
    host store.dest.example [192.0.2.33]
    SMTP error from remote mail server after RCPT TO:<bob@dest.example>:
    550 5.1.1 No mailbox here by that name

--1732104000-eximdsn-1804289383
Content-type: message/delivery-status

Reporting-MTA: dns; exim.dest.example

Action: failed
Final-Recipient: rfc822;bob@dest.example
Status: 5.0.0
Remote-MTA: dns; store.dest.example
Diagnostic-Code: smtp; 550 5.1.1 No mailbox here by that name

--1732104000-eximdsn-1804289383
Content-type: message/rfc822

{original(extra="Return-path: <alice@example.com>" + chr(10))}
Hello Bob

--1732104000-eximdsn-1804289383--
"""
)

EXIM_AS_TEXT = crlf(
    f"""From: Mail Delivery System <Mailer-Daemon@exim.dest.example>
To: alice@example.com
Subject: Mail delivery failed: returning message to sender
X-Failed-Recipients: bob@dest.example,
  carol@dest.example

This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  bob@dest.example
    Unrouteable address
  carol@dest.example
    (generated from info@dest.example)
    mailbox is full: retry timeout exceeded

------ This is a copy of the message, including all the headers. ------

{original(extra="Return-path: <alice@example.com>" + chr(10))}
Hello Bob
"""
)

OFFICE_365 = crlf(
    f"""From: <postmaster@dest.onmicrosoft.example>
To: <alice@example.com>
Subject: Undeliverable: Invitation
MIME-Version: 1.0
X-MS-Exchange-Message-Is-Ndr:
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="6d3f2b1e-aaaa-bbbb-cccc-121212121212"

--6d3f2b1e-aaaa-bbbb-cccc-121212121212
Content-Type: multipart/alternative; differences=Content-Type;
\tboundary="77777777-aaaa-bbbb-cccc-121212121212"

--77777777-aaaa-bbbb-cccc-121212121212
Content-Type: text/plain; charset="us-ascii"
Content-Transfer-Encoding: quoted-printable

Your message to bob@dest.example couldn't be delivered.=0A=
bob wasn't found at dest.example.

--77777777-aaaa-bbbb-cccc-121212121212
Content-Type: text/html; charset="us-ascii"

<html><body><b>Your message couldn't be delivered</b></body></html>

--77777777-aaaa-bbbb-cccc-121212121212--

--6d3f2b1e-aaaa-bbbb-cccc-121212121212
Content-Type: message/delivery-status

Reporting-MTA: dns;AA0P123.dest.onmicrosoft.example
Received-From-MTA: dns;mail.example.com
Arrival-Date: Fri, 20 Nov 2026 12:00:05 +0000

Final-Recipient: rfc822;bob@dest.example
Action: failed
Status: 5.1.10
Diagnostic-Code: smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient bob@dest.example
 not found by SMTP address lookup

--6d3f2b1e-aaaa-bbbb-cccc-121212121212
Content-Type: message/rfc822

Received: from AA0P456.dest.onmicrosoft.example by AA0P123.dest.onmicrosoft.example;
 Fri, 20 Nov 2026 12:00:04 +0000
{original()}
--6d3f2b1e-aaaa-bbbb-cccc-121212121212--
"""
)

EXCHANGE_AS_TEXT = crlf(
    """From: System Administrator <postmaster@dest.example>
To: alice@example.com
Subject: Undeliverable: Invitation

Your message did not reach some or all of the intended recipients.

      Subject:  Invitation
      Sent:     11/20/2026 12:00 PM

The following recipient(s) cannot be reached:

      bob@dest.example on 11/20/2026 12:00 PM
            The e-mail account does not exist at the organization this message
            was sent to.  Check the e-mail address, or contact the recipient.
            <store.dest.example #5.1.1>
"""
)

GMAIL = crlf(
    f"""From: Mail Delivery Subsystem <mailer-daemon@googlemail.example>
To: alice@example.com
Auto-Submitted: auto-replied
Subject: Delivery Status Notification (Failure)
X-Failed-Recipients: bob@dest.example
Content-Type: multipart/report; boundary="000000000000aa11bb0627abcdef"; report-type=delivery-status

--000000000000aa11bb0627abcdef
Content-Type: multipart/related; boundary="000000000000aa22bb0627abcdef"

--000000000000aa22bb0627abcdef
Content-Type: multipart/alternative; boundary="000000000000aa33bb0627abcdef"

--000000000000aa33bb0627abcdef
Content-Type: text/plain; charset="UTF-8"

** Address not found **

Your message wasn't delivered to bob@dest.example because the address couldn't be found.

--000000000000aa33bb0627abcdef
Content-Type: text/html; charset="UTF-8"

<html><body><h2>Address not found</h2></body></html>
--000000000000aa33bb0627abcdef--
--000000000000aa22bb0627abcdef
Content-Type: image/png; name="icon.png"
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--000000000000aa22bb0627abcdef--
--000000000000aa11bb0627abcdef
Content-Type: message/delivery-status

Reporting-MTA: dns; googlemail.example
Received-From-MTA: dns; alice@example.com
Arrival-Date: Fri, 20 Nov 2026 04:00:06 -0800 (PST)
X-Original-Message-ID: <inv.1@example.com>

Final-Recipient: rfc822; bob@dest.example
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; The email account that you tried to reach does not exist. Please
 try double-checking the address.
Last-Attempt-Date: Fri, 20 Nov 2026 04:00:07 -0800 (PST)

--000000000000aa11bb0627abcdef
Content-Type: message/rfc822

{original()}
--000000000000aa11bb0627abcdef--
"""
)

QMAIL = crlf(
    f"""From: MAILER-DAEMON@qmail.dest.example
To: alice@example.com
Subject: failure notice

Hi. This is the qmail-send program at qmail.dest.example.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<bob@dest.example>:
192.0.2.33 does not like recipient.
Remote host said: 550 no such user here
Giving up on 192.0.2.33.

<carol@dest.example>:
The mailbox is over its quota. (#5.2.2)

--- Below this line is a copy of the message.

Return-Path: <alice@example.com>
{original()}
Hello <dave@dest.example>:
Shall we?
"""
)

SENDMAIL_AS_TEXT = crlf(
    f"""From: Mail Delivery Subsystem <MAILER-DAEMON@old.dest.example>
To: alice@example.com
Subject: Returned mail: see transcript for details

The original message was received at Fri, 20 Nov 2026 12:00:01 GMT

   ----- The following addresses had permanent fatal errors -----
<bob@dest.example>
    (reason: 553 5.3.0 <bob@dest.example>... Addressee unknown, relay=[192.0.2.9])

   ----- Transcript of session follows -----
... while talking to store.dest.example.:
>>> RCPT To:<bob@dest.example>
<<< 553 5.3.0 <bob@dest.example>... Addressee unknown

   ----- Original message follows -----

{original()}
"""
)

HTML_ALONE = crlf(
    """From: postmaster@dest.example
To: alice@example.com
Subject: Delivery failure
MIME-Version: 1.0
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: base64

PHA+WW91ciBtZXNzYWdlIHRvIDxiPmJvYkBkZXN0LmV4YW1wbGU8L2I+IGNvdWxkIG5vdCBiZSBkZWxp
dmVyZWQ6IHVzZXIgdW5rbm93bi48L3A+
"""
)

WARNING = crlf(
    """From: Mail Delivery System <Mailer-Daemon@exim.dest.example>
To: alice@example.com
Subject: Warning: message 1tABC delayed 24 hours

This message was created automatically by mail delivery software.
A message that you sent has not yet been delivered to one or more of its
recipients after more than 24 hours on the queue on exim.dest.example.

  bob@dest.example
    host store.dest.example: 451 4.2.0 mailbox busy

No action is required on your part. Delivery attempts will continue for some time.
"""
)

VACATION = crlf(
    """From: Bob <bob@dest.example>
To: alice@example.com
Subject: Out of the office
Auto-Submitted: auto-replied

I am away until Monday. If it is urgent please write to carol@dest.example.
"""
)


def complaint(
    *,
    mail_from: str = "alice@example.com",
    recipient: str = "bob@dest.example",
    kind: str = "abuse",
    returned: str = "",
) -> bytes:
    """RFC 5965, as feedback loops send it."""
    rcpt = f"Original-Rcpt-To: <{recipient}>\n" if recipient else ""
    return crlf(
        f"""From: <feedback@fbl.dest.example>
To: <abuse@example.com>
Subject: FW: Invitation
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report;
     boundary="part1_13d.2e68ed54_boundary"

--part1_13d.2e68ed54_boundary
Content-Type: text/plain; charset="US-ASCII"

This is an email abuse report for a message received from 192.0.2.9.

--part1_13d.2e68ed54_boundary
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: SomeGenerator/1.0
Version: 1
Original-Mail-From: <{mail_from}>
{rcpt}Arrival-Date: Fri, 20 Nov 2026 12:00:10 +0000
Source-IP: 192.0.2.9
Reported-Domain: example.com

--part1_13d.2e68ed54_boundary
Content-Type: message/rfc822
Content-Disposition: inline

{returned or original()}
Hello

--part1_13d.2e68ed54_boundary--
"""
    )
