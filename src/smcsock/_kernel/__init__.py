"""What the kernel tells, to any user and without a library.

==================  ==============================================================
``_errors``         what is raised where it cannot be asked
``_machine``        /proc, /sys and /lib/modules: devices, settings, modules
``_modules``        whether a module is loaded, told without loading it
``_netlink``        one question over netlink, and its answers
``_reasons``        why a connection is not SMC: decline codes in words
``_rnics``          the PCI functions of IBM Z: RoCE and network cards, ISM
``_smc_info``       SmcInfo: the record of a socket, decoded
``_sock_diag``      the records of all SMC sockets, or of some
==================  ==============================================================

Nothing here imports from the rest of the package but the C extension. What takes
pyroute2, generic netlink, is smcsock.diag.
"""
