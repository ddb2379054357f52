"""Libraries in C that open their sockets themselves, out of the reach of Python code."""

import sys

__all__ = ["loaded_libraries"]

_LIBRARIES = {
    "MySQLdb._mysql": "mysqlclient",
    "_mysql_connector": "mysql-connector-python",
    "confluent_kafka.cimpl": "confluent-kafka",
    "curl_cffi": "curl_cffi",
    "grpc._cython.cygrpc": "grpcio",
    "psycopg.pq._pq_ctypes": "psycopg",
    "psycopg2._psycopg": "psycopg2",
    "psycopg_binary": "psycopg",
    "psycopg_c": "psycopg",
    "pycurl": "pycurl",
    "uvloop": "uvloop",
    "zmq": "pyzmq",
}
"""Their modules, by which they show, and their names."""


def loaded_libraries() -> list[str]:
    """The names of those that this process has imported."""
    return sorted({name for module, name in _LIBRARIES.items() if module in sys.modules})
