"""Attacks on the network: reach a listener of the host in every way there is, or find a way to another machine.

Nothing here sends a packet beyond the loopback: where a route out would be the escape, only the route is looked up.
"""

from __future__ import annotations

from functools import partial

from tool_sandbox.attacks.attack import Attack, Outside, Theme, probe

_probe = partial(probe, Theme.NETWORK)
_ROOT = Outside(frozenset({"root"}))

_LISTENERS = (
    _probe(
        "connect_by_tcp",
        "Reach a listener on the host's loopback by TCP.",
        """
        import socket
        with socket.create_connection(("127.0.0.1", {tcp_port}), timeout=2) as peer:
            return peer.recv(64)
        """,
        canary=True,
    ),
    _probe(
        "connect_by_fast_open",
        "Reach it by sending data with the first packet: no connect() is called.",
        """
        import socket
        with socket.socket() as peer:
            peer.settimeout(2)
            peer.sendto(b"hello", socket.MSG_FASTOPEN, ("127.0.0.1", {tcp_port}))
            return peer.recv(64)
        """,
        control=Outside(unless="net.ipv4.tcp_fastopen is off"),
    ),
    _probe(
        "connect_by_multipath_tcp",
        "Reach it by multipath TCP, which is another protocol to rules about TCP.",
        """
        import socket
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as peer:
            peer.settimeout(2)
            peer.connect(("127.0.0.1", {tcp_port}))
            return peer.recv(64)
        """,
        control=Outside(unless="the kernel has no multipath TCP"),
    ),
    _probe(
        "send_by_udp",
        "Reach a listener on the host's loopback by UDP.",
        """
        import socket
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(1)
            peer.sendto(b"hello", ("127.0.0.1", {udp_port}))
            return peer.recv(64)
        """,
        canary=True,
    ),
    _probe(
        "exfiltrate_by_dns",
        "Carry data out in the name of a DNS question.",
        """
        import socket, struct
        question = b"".join(bytes([len(part)]) + part for part in (b"stolen", b"example")) + b"\\0"
        query = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + question + struct.pack("!2H", 1, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(1)
            peer.connect(("127.0.0.1", {udp_port}))
            peer.send(query)
            return peer.recv(64)
        """,
    ),
    _probe(
        "connect_by_unix_socket",
        "Reach a listener of the host by the path of its socket.",
        """
        import socket
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(2)
            peer.connect({unix_socket})
            return peer.recv(64)
        """,
        canary=True,
    ),
    _probe(
        "connect_by_abstract_socket",
        "Reach a listener of the host by the name of its abstract socket.",
        """
        import socket
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(2)
            peer.connect("\\0" + {abstract_socket})
            return peer.recv(64)
        """,
        canary=True,
    ),
)

_WAYS_OUT = (
    _probe(
        "find_a_route_out",
        "Look up a route to other machines, among them the address where clouds keep credentials. No packet is sent.",
        """
        import socket
        refusal = OSError(errno.ENETUNREACH, "")
        for address in ("192.0.2.1", "198.51.100.1", "169.254.169.254"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                try:
                    peer.connect((address, 53))
                    return f"{address} by way of {peer.getsockname()[0]}"
                except OSError as error:
                    refusal = error
        raise refusal
        """,
        control=Outside(unless="the machine has no network"),
    ),
    _probe(
        "open_a_raw_socket",
        "Make packets of any protocol.",
        """
        import socket
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
        return "a raw socket"
        """,
        control=_ROOT,
    ),
    _probe(
        "open_a_packet_socket",
        "Listen to all packets of the machine.",
        """
        import socket
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
        return "a packet socket"
        """,
        control=Outside(frozenset({"root"}), unless="the kernel has no packet sockets"),
    ),
    _probe(
        "open_a_netlink_socket",
        "Ask the kernel for interfaces, routes and addresses.",
        """
        import socket
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as peer:
            peer.bind((0, 0))
            return "a netlink socket"
        """,
    ),
    _probe(
        "open_a_vsock",
        "Talk to the hypervisor or to other guests.",
        """
        import socket
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        return "a vsock"
        """,
        control=Outside(unless="the kernel has no vsock"),
    ),
    _probe(
        "open_an_unusual_socket",
        "Open any other family: IPv6, crypto, Bluetooth, XDP … each one more piece of the kernel.",
        """
        import socket
        refusal = OSError(errno.EAFNOSUPPORT, "")
        for family in set(range(2, 46)) - {2, 16, 17, 40}:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW):
                try:
                    socket.socket(family, kind, 0).close()
                    return f"a socket of family {family}"
                except OSError as error:
                    refusal = error
        raise refusal
        """,
        control=Outside(unless="the kernel knows no other family"),
    ),
)

ATTACKS: tuple[Attack, ...] = _LISTENERS + _WAYS_OUT
