/* smc_run's way: a preloaded library whose socket() asks for SMC in the place of TCP. */

#define _GNU_SOURCE
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int
socket(int domain, int type, int protocol)
{
    int is_tcp = (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
                 (protocol == 0 || protocol == IPPROTO_TCP);
    return is_tcp ? (int)syscall(SYS_socket, 43, type, domain == AF_INET6)
                  : (int)syscall(SYS_socket, domain, type, protocol);
}
