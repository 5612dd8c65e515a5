"""Which network device holds an address of this machine."""

import fcntl
import ipaddress
import socket
import struct

_SIOCGIFADDR = 0x8915
"""Linux: the IPv4 address of a device (netdevice(7))."""
_NAME_BYTES, _ANSWER = 16, slice(20, 24)
"""Of struct ifreq: the device's name, and where its address stands in the answer."""


def interface_of(address: str) -> str:
    """The device's name; empty where none is found (an IPv6 address, say), so that gloo makes its own choice."""
    if ipaddress.ip_address(address).is_loopback:
        return "lo"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                request = struct.pack("256s", name.encode()[: _NAME_BYTES - 1])
                answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)
            except OSError:  # a device without an IPv4 address
                continue
            if socket.inet_ntoa(answer[_ANSWER]) == address:
                return name
    return ""
