import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from orchestrator import certificates

HOSTS = ["fedelta.example.org", "localhost", "10.1.2.3", "::1"]


@pytest.fixture(scope="module")
def authority():
    return certificates.authority("centre at fedelta.example.org")


def parsed(pair):
    return x509.load_pem_x509_certificate(pair.certificate)


def extension(pair, kind):
    return parsed(pair).extensions.get_extension_for_class(kind).value


@pytest.fixture
def context(tmp_path):
    """Makes one side of a connection that shows this pair and trusts this authority."""

    def make(side, pair, trusted):
        (tmp_path / "own.pem").write_bytes(pair.certificate + pair.key)
        made = ssl.SSLContext(side)
        made.load_cert_chain(tmp_path / "own.pem")
        made.load_verify_locations(cadata=trusted.certificate.decode())
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    return make


def shake_hands(server, client, host):
    """Both sides' handshake, in memory; raises what the first of them does not like."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(back, there, server_hostname=host),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(10):
        for side in list(sides):
            try:
                side.do_handshake()
                sides.remove(side)
            except ssl.SSLWantReadError:
                continue
    assert not sides


@pytest.mark.parametrize("host", HOSTS)
def test_a_server_and_a_client_of_one_authority_shake_hands_under_each_of_its_names(authority, context, host):
    server = context(ssl.PROTOCOL_TLS_SERVER, certificates.server(authority, HOSTS), authority)
    client = context(ssl.PROTOCOL_TLS_CLIENT, certificates.client(authority, "site.a"), authority)
    shake_hands(server, client, host)


def test_a_server_of_another_name_is_refused(authority, context):
    server = context(ssl.PROTOCOL_TLS_SERVER, certificates.server(authority, HOSTS), authority)
    client = context(ssl.PROTOCOL_TLS_CLIENT, certificates.client(authority, "site.a"), authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(server, client, "example.org")


def test_a_server_and_a_client_of_other_authorities_are_refused(authority, context):
    other = certificates.authority("centre at fedelta.example.org")  # it only says that it is the same
    mine = context(ssl.PROTOCOL_TLS_SERVER, certificates.server(authority, HOSTS), authority)
    stranger = context(ssl.PROTOCOL_TLS_CLIENT, certificates.client(other, "site.a"), authority)
    with pytest.raises(ssl.SSLError, match="certificate|CERTIFICATE"):
        shake_hands(mine, stranger, "localhost")
    theirs = context(ssl.PROTOCOL_TLS_SERVER, certificates.server(other, HOSTS), authority)
    client = context(ssl.PROTOCOL_TLS_CLIENT, certificates.client(authority, "site.a"), authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(theirs, client, "localhost")


def test_a_hospital_cannot_pass_itself_off_as_the_server(authority, context):
    hospital = certificates.client(authority, "localhost")
    server = context(ssl.PROTOCOL_TLS_SERVER, hospital, authority)
    client = context(ssl.PROTOCOL_TLS_CLIENT, certificates.client(authority, "site.a"), authority)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(server, client, "localhost")
    assert list(extension(hospital, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_hospital_can_sign_nothing_and_the_authority_no_other_authority(authority):
    hospital = certificates.client(authority, "site.a")
    constraints = extension(hospital, x509.BasicConstraints)
    assert (constraints.ca, extension(hospital, x509.KeyUsage).key_cert_sign) == (False, False)
    constraints = extension(authority, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_what_an_authority_issues_is_signed_by_it_and_by_no_other(authority):
    issued = parsed(certificates.client(authority, "site.a"))
    issued.verify_directly_issued_by(parsed(authority))
    with pytest.raises((InvalidSignature, ValueError)):
        issued.verify_directly_issued_by(parsed(certificates.authority("another")))


def test_a_subject_says_whose_it_is_and_is_never_longer_than_x509_allows(authority):
    (name,) = parsed(certificates.client(authority, "s" * 70)).subject.get_attributes_for_oid(
        x509.NameOID.COMMON_NAME
    )
    assert name.value == "s" * 64


def test_a_certificate_is_good_at_a_hospital_whose_clock_is_an_hour_late(authority):
    start = parsed(certificates.client(authority, "site.a")).not_valid_before_utc
    assert datetime.datetime.now(datetime.UTC) - start >= certificates.CLOCK_SKEW


def test_the_days_that_are_left_are_counted(authority, monkeypatch):
    assert certificates.days_left(authority.certificate) == certificates.AUTHORITY_DAYS - 1
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS", 3)
    assert certificates.days_left(certificates.client(authority, "site.a").certificate) == 2


def test_no_two_certificates_have_a_key_or_a_number_in_common(authority):
    issued = [certificates.client(authority, "site.a") for _ in range(20)]
    assert len({pair.key for pair in issued}) == 20
    assert len({parsed(pair).serial_number for pair in issued}) == 20
