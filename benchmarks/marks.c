/* What is loaded into a Python under callgrind: marks around the calls to count.

   With -DSHIM also a socket() that opens TCP sockets where SMC sockets are asked
   for: on a kernel without SMC, user space then still does what it does with SMC.

   Callgrind is to be started with --instr-atstart=no: importing is not counted. */

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <valgrind/callgrind.h>

void
start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
}

void
begin(void)
{
    CALLGRIND_ZERO_STATS;
}

void
end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
}

#ifdef SHIM
int
socket(int domain, int type, int protocol)
{
    if (domain == 43) {
        domain = protocol == 1 ? AF_INET6 : AF_INET;
        protocol = 0;
    }
    else if (protocol == 256) {
        protocol = 0;
    }
    return (int)syscall(SYS_socket, domain, type, protocol);
}
#endif
