/* A contender of timing.py in C: what that does with Python sockets.

   bench WORKLOAD SIZE COUNT TURNS CONTROL CLIENT_CPU SERVER_CPU LIMIT

   For a message on the socket CONTROL it does COUNT operations and answers with the
   seconds that they took, as text; and so TURNS times.  For another message it
   answers with a connection's descriptor, and ends when CONTROL is closed.  Both
   processes end by SIGALRM after LIMIT seconds. */

#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STREAM_BUFFER (1 << 20)

#ifndef AF_SMC
#define AF_SMC 43
#endif

static size_t size;
static struct sockaddr_in address = {.sin_family = AF_INET};
static char *buffer;

static long
check(long result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void
pin(int cpu)
{
    cpu_set_t set;
    if (cpu >= 0) {
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        check(sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
    }
}

static int
open_socket(void)
{
    return (int)check(socket(AF_SMC, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
}

static int
open_connection(void)
{
    int fd = open_socket();
    check(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
    return fd;
}

static int
accept_connection(int listener)
{
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    return (int)check(accept4(listener, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC),
                      "accept");
}

/* Lest the end of a TCP stream waits for a delayed acknowledgement. */
static void
set_nodelay(int fd)
{
    int on = 1;
    check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "setsockopt");
}

static void
send_all(int fd, size_t length)
{
    size_t done = 0;
    while (done < length) {
        done += (size_t)check(send(fd, buffer + done, length - done, 0), "send");
    }
}

static void
receive_all(int fd, size_t length, size_t chunk)
{
    size_t done = 0;
    while (done < length) {
        long got = check(recv(fd, buffer, chunk, 0), "recv");
        if (got == 0) {
            fprintf(stderr, "the peer is gone\n");
            exit(1);
        }
        done += (size_t)got;
    }
}

static void
connect_client(int fd, long count)
{
    (void)fd;
    for (long i = 0; i < count; i++) {
        int connection = open_connection();
        check(recv(connection, buffer, 1, 0), "recv");
        close(connection);
    }
}

static void
connect_server(int listener, long count)
{
    for (long i = 0; i < count; i++) {
        close(accept_connection(listener));
    }
}

static void
round_trip_client(int fd, long count)
{
    for (long i = 0; i < count; i++) {
        send_all(fd, size);
        receive_all(fd, size, size);
    }
}

static void
round_trip_server(int fd, long count)
{
    for (long i = 0; i < count; i++) {
        receive_all(fd, size, size);
        send_all(fd, size);
    }
}

static void
stream_client(int fd, long count)
{
    for (long i = 0; i < count; i++) {
        send_all(fd, size);
    }
    receive_all(fd, 1, 1);
}

static void
stream_server(int fd, long count)
{
    receive_all(fd, size * (size_t)count, STREAM_BUFFER);
    send_all(fd, 1);
}

static const struct workload {
    const char *name;
    void (*client)(int, long);
    void (*server)(int, long);
} workloads[] = {
    {"connect", connect_client, connect_server},
    {"round trip", round_trip_client, round_trip_server},
    {"stream", stream_client, stream_server},
};

static double
now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void
await(int control)
{
    char message;
    if (check(recv(control, &message, 1, 0), "recv") == 0) {
        exit(1);
    }
}

static void
send_descriptor(int control, int fd)
{
    char text[] = "f", ancillary[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {text, 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = ancillary,
                             .msg_controllen = sizeof ancillary};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    check(sendmsg(control, &message, 0), "sendmsg");
    check(recv(control, text, 1, 0), "recv");
}

static void
serve(const struct workload *workload, int listener, long count, long turns)
{
    int fd = listener;
    if (workload->server != connect_server) {
        fd = accept_connection(listener);
        set_nodelay(fd);
    }
    for (long i = 0; i < turns; i++) {
        workload->server(fd, count);
    }
    if (fd == listener) {
        fd = accept_connection(listener);
    }
    check(recv(fd, buffer, 1, 0), "recv");
}

static void
drive(const struct workload *workload, int control, long count, long turns)
{
    char text[32];
    int fd = -1;
    if (workload->client != connect_client) {
        fd = open_connection();
        set_nodelay(fd);
    }
    for (long i = 0; i < turns; i++) {
        await(control);
        const double start = now();
        workload->client(fd, count);
        const double seconds = now() - start;
        const int length = snprintf(text, sizeof text, "%.9f", seconds);
        check(send(control, text, (size_t)length, 0), "send");
    }
    if (fd < 0) {
        fd = open_connection();
    }
    await(control);
    send_descriptor(control, fd);
    close(fd);
}

int
main(int argc, char **argv)
{
    const struct workload *workload = NULL;
    for (size_t i = 0; argc == 9 && i < sizeof workloads / sizeof *workloads; i++) {
        if (strcmp(argv[1], workloads[i].name) == 0) {
            workload = &workloads[i];
        }
    }
    if (workload == NULL) {
        fprintf(stderr, "usage: see the source\n");
        return 2;
    }
    size = (size_t)atol(argv[2]);
    const long count = atol(argv[3]), turns = atol(argv[4]);
    const int control = atoi(argv[5]);
    buffer = calloc(1, STREAM_BUFFER);

    int listener = open_socket();
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    check(bind(listener, (struct sockaddr *)&address, length), "bind");
    check(listen(listener, 128), "listen");
    check(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");

    const unsigned limit = (unsigned)atoi(argv[8]);
    const pid_t server = (pid_t)check(fork(), "fork");
    if (server == 0) {
        alarm(limit);
        close(control);
        pin(atoi(argv[7]));
        serve(workload, listener, count, turns);
        return 0;
    }
    alarm(limit);
    close(listener);
    pin(atoi(argv[6]));
    drive(workload, control, count, turns);
    int status;
    check(waitpid(server, &status, 0), "waitpid");
    return status != 0;
}
