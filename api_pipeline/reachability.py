"""Why a database server did not answer: its name, its port, or what happened on the connection.

Asked only after a driver has given up, because its own texts do not tell (interface, "Commands":
``test-db-connection``).
"""

from __future__ import annotations

import socket

from api_pipeline.errors import ConnectionLostError, DatabaseError
from api_pipeline.odbc import ConnectionString, OdbcFault

PROBE_TIMEOUT = 5  # seconds, for each address of the host


def network_fault(where: ConnectionString, fault: OdbcFault) -> DatabaseError | None:
    """Return why no session could be opened, as far as the network can tell; None where it cannot.

    The drivers give one text, after all of their time limit, for an unknown host and for a closed port.
    """
    address = where.host_and_port
    if address is None:
        if "\\" in where.get("server"):
            return ConnectionLostError(
                f"The instance '{where.get('server')}' did not answer.",
                hop="host",
                remedy="Check the instance name, that the SQL Server Browser (UDP 1434) is reachable, "
                "or write Server=host,port.",
            )
        return None
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the latter for what can be no host name at all
        return ConnectionLostError(
            f"The database host '{host}' is not known to the name server (DNS).",
            hop="host",
            remedy="Check the spelling of Server= in DB_CONNECTION_STRING; off-site you may need the VPN.",
        )
    reason = "did not answer"
    for family, kind, protocol, _, target in found:
        with socket.socket(family, kind, protocol) as probe:
            probe.settimeout(PROBE_TIMEOUT)
            try:
                probe.connect(target)
            except OSError as error:
                if isinstance(error, ConnectionRefusedError):
                    reason = "refused the connection"
                continue
            return ConnectionLostError(
                f"The database host '{host}' can be reached on port {port}, but ended the connection before "
                f"the login ({fault.code}).",
                hop="connection",
                remedy="Check that a database server listens there, that it takes new connections, and what "
                "stands between (firewall, proxy, TLS inspection).",
            )
    return ConnectionLostError(
        f"The database host '{host}' {reason} on port {port}.",
        hop="port",
        remedy="Check the port, that the database service runs and allows TCP/IP, and the firewall.",
    )
