/* smcsock._native._syscalls: the system calls behind 'smcsock run' for any program.

   CPython has no seccomp(2), pidfd_getfd(2), process_vm_readv(2) and prctl(2), and
   no fork() whose child is invisible to wait().  serve() is the one loop that is
   here for its speed: it answers the notifications of socket(2), of which a
   program's every connection has one, in the way it is told.  What else there is
   to decide, the package smcsock._native decides (seccomp_unotify(2)). */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/filter.h>

/* Older C libraries and kernel headers lack these: the values are those of
   asm/unistd.h and linux/seccomp.h. */
#ifndef SYS_seccomp
#if defined(__x86_64__)
#define SYS_seccomp 317
#elif defined(__i386__)
#define SYS_seccomp 354
#elif defined(__aarch64__) || defined(__riscv)
#define SYS_seccomp 277
#elif defined(__s390__)
#define SYS_seccomp 348
#elif defined(__powerpc__)
#define SYS_seccomp 358
#elif defined(__arm__)
#define SYS_seccomp 383
#endif
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* struct seccomp_notif, with struct seccomp_data inside */
struct notification {
    uint64_t id;
    uint32_t pid;
    uint32_t flags;
    int32_t number;
    uint32_t arch;
    uint64_t instruction_pointer;
    uint64_t args[6];
};

/* struct seccomp_notif_resp */
struct response {
    uint64_t id;
    int64_t value;
    int32_t error;
    uint32_t flags;
};

/* struct seccomp_notif_addfd */
struct addition {
    uint64_t id;
    uint32_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t target_flags;
};

#define IOCTL_RECV _IOWR('!', 0, struct notification)
#define IOCTL_SEND _IOWR('!', 1, struct response)
#define IOCTL_ID_VALID _IOW('!', 2, uint64_t)
#define IOCTL_ADDFD _IOW('!', 3, struct addition)
#define ADDFD_FLAG_SEND (1u << 1)
#define FLAG_CONTINUE 1u

/* ---- System calls ------------------------------------------------------- */

PyDoc_STRVAR(clone_doc,
"clone($module, /)\n--\n\n"
"As os.fork(), but the child sends its parent no signal when it ends, and wait()\n"
"does not see it (clone(2) with exit signal 0).\n\n"
"To be called by a process of one thread: the C library is not told.");

static PyObject *
native_clone(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(arg))
{
    PyOS_BeforeFork();
    /* Zeros only: the order of the arguments is another one on each architecture. */
    long pid = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    int saved_errno = errno;
    if (pid == 0) {
        PyOS_AfterFork_Child();
    }
    else {
        PyOS_AfterFork_Parent();
    }
    if (pid < 0) {
        errno = saved_errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(pid);
}

PyDoc_STRVAR(seccomp_doc,
"seccomp($module, operation, flags, program, /)\n--\n\n"
"seccomp(2) with a filter: bytes that are an array of struct sock_filter.  What the\n"
"system call returns, with SECCOMP_FILTER_FLAG_NEW_LISTENER a descriptor.");

static PyObject *
native_seccomp(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned int operation;
    unsigned long flags;
    Py_buffer program;
    if (!PyArg_ParseTuple(args, "Iky*:seccomp", &operation, &flags, &program)) {
        return NULL;
    }
    size_t length = (size_t)program.len / sizeof(struct sock_filter);
    if (length * sizeof(struct sock_filter) != (size_t)program.len || length > UINT16_MAX) {
        PyBuffer_Release(&program);
        PyErr_SetString(PyExc_ValueError, "no array of struct sock_filter");
        return NULL;
    }
    struct sock_fprog fprog = {.len = (unsigned short)length, .filter = program.buf};
    long result = syscall(SYS_seccomp, operation, flags, &fprog);
    int saved_errno = errno;
    PyBuffer_Release(&program);
    if (result < 0) {
        errno = saved_errno;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(result);
}

PyDoc_STRVAR(prctl_doc,
"prctl($module, option, argument, /)\n--\n\n"
"prctl(2) with one argument; the others are 0.");

static PyObject *
native_prctl(PyObject *Py_UNUSED(module), PyObject *args)
{
    int option;
    unsigned long argument;
    if (!PyArg_ParseTuple(args, "ik:prctl", &option, &argument)) {
        return NULL;
    }
    int result = prctl(option, argument, 0L, 0L, 0L);
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

PyDoc_STRVAR(is_child_subreaper_doc,
"is_child_subreaper($module, /)\n--\n\n"
"Whether orphans among the descendants of this process become its children.");

static PyObject *
native_is_child_subreaper(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(arg))
{
    int is_subreaper = 0;
    if (prctl(PR_GET_CHILD_SUBREAPER, &is_subreaper, 0L, 0L, 0L) < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBool_FromLong(is_subreaper);
}

PyDoc_STRVAR(pidfd_getfd_doc,
"pidfd_getfd($module, pidfd, fd, /)\n--\n\n"
"A descriptor of this process for the file behind another process' descriptor.");

static PyObject *
native_pidfd_getfd(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pidfd, fd;
    if (!PyArg_ParseTuple(args, "ii:pidfd_getfd", &pidfd, &fd)) {
        return NULL;
    }
    long result = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    return result < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(result);
}

PyDoc_STRVAR(process_vm_readv_doc,
"process_vm_readv($module, pid, address, size, /)\n--\n\n"
"Bytes of another process' memory: as many as can be read there, at most size.");

static PyObject *
native_process_vm_readv(PyObject *Py_UNUSED(module), PyObject *args)
{
    int pid;
    unsigned long long address;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "iKn:process_vm_readv", &pid, &address, &size)) {
        return NULL;
    }
    char buffer[4096];
    if (size < 0 || (size_t)size > sizeof buffer) {
        PyErr_SetString(PyExc_ValueError, "more than 4096 bytes");
        return NULL;
    }
    struct iovec local = {.iov_base = buffer, .iov_len = (size_t)size};
    struct iovec remote = {.iov_base = (void *)(uintptr_t)address, .iov_len = (size_t)size};
    ssize_t length = process_vm_readv((pid_t)pid, &local, 1, &remote, 1, 0);
    if (length < 0) {
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyBytes_FromStringAndSize(buffer, (Py_ssize_t)length);
}

/* ---- serve() ------------------------------------------------------------ */

#define MAX_CALLS 8
#define N_CHECKED 16

/* How long a thread's number is certainly not another's. */
#define CHECKED_MS 100

typedef struct {
    uint32_t arch;
    uint32_t number;
} system_call;

typedef struct {
    system_call calls[MAX_CALLS];
    size_t n;
} system_calls;

typedef struct {
    int domain;
    int protocol;
} kind;

/* A thread found in the network namespace, and when: 0 for an empty place. */
typedef struct {
    uint32_t id;
    int64_t until_ms;
} thread;

typedef struct {
    int listener;
    int other;
    struct notification *request;
    system_calls sockets, exits;
    int program;
    kind inet, inet6;
    int sndbuf, rcvbuf;
    const char *mark;
    unsigned long long netns;
    int timeout;
    thread checked[N_CHECKED];
} server;

enum { REQUEST, OTHER, END, FAILED };

static bool
is_among(const struct notification *request, const system_calls *all)
{
    for (size_t i = 0; i < all->n; i++) {
        if (all->calls[i].arch == request->arch &&
            all->calls[i].number == (uint32_t)request->number) {
            return true;
        }
    }
    return false;
}

static int64_t
now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Looking in /proc takes as long as all else that is done for a socket: what was found
   holds until serve() returns, as it does when a thread changes its namespace. */
static bool
is_in_namespace(server *s)
{
    char path[64];
    struct stat status;
    uint32_t id = s->request->pid;
    thread *checked = &s->checked[id % N_CHECKED];
    int64_t now = now_ms();
    if (checked->id == id && now < checked->until_ms) {
        return true;
    }
    snprintf(path, sizeof path, "/proc/%u/%s", (unsigned)id, s->mark);
    if (stat(path, &status) < 0 || status.st_ino != s->netns) {
        return false;
    }
    *checked = (thread){.id = id, .until_ms = now + CHECKED_MS};
    return true;
}

static bool
set_buffer(int fd, int option, int size)
{
    return size == 0 || setsockopt(fd, SOL_SOCKET, option, &size, sizeof size) == 0;
}

static bool
is_of_program(const server *s)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%u", s->program, (unsigned)s->request->pid);
    return access(path, F_OK) == 0;
}

static bool
go_on(const server *s)
{
    struct response response = {.id = s->request->id, .flags = FLAG_CONTINUE};
    ioctl(s->listener, IOCTL_SEND, &response); /* it fails if the thread is gone */
    return true;
}

/* Whether the program has got its socket. */
static bool
serve_socket(const server *s)
{
    const struct notification *request = s->request;
    const kind *asked = (int)request->args[0] == AF_INET6 ? &s->inet6 : &s->inet;
    int type = (int)request->args[1];
    int fd = socket(asked->domain, type | SOCK_CLOEXEC, asked->protocol);
    if (fd < 0) {
        return false;
    }
    struct addition addition = {
        .id = request->id,
        .flags = ADDFD_FLAG_SEND,
        .source = (uint32_t)fd,
        .target_flags = type & SOCK_CLOEXEC ? O_CLOEXEC : 0,
    };
    bool served = set_buffer(fd, SO_SNDBUF, s->sndbuf) &&
                  set_buffer(fd, SO_RCVBUF, s->rcvbuf) &&
                  ioctl(s->listener, IOCTL_ADDFD, &addition) >= 0;
    close(fd);
    return served;
}

/* Whether the thread has its answer: else it is for the caller to give one. */
static bool
answer(server *s)
{
    if (is_among(s->request, &s->exits)) {
        return !is_of_program(s) && go_on(s);
    }
    return is_among(s->request, &s->sockets) && is_in_namespace(s) && serve_socket(s);
}

/* Serves until there is something else to do, or a signal (FAILED with EINTR). */
static int
serve_sockets(server *s)
{
    struct pollfd files[] = {
        {.fd = s->listener, .events = POLLIN},
        {.fd = s->other, .events = POLLIN},
    };
    for (;;) {
        int ready = poll(files, 2, s->timeout);
        if (ready < 0) {
            return FAILED;
        }
        if (ready == 0) {
            return OTHER;
        }
        if (files[0].revents & POLLIN) {
            /* The kernel wants zeros.  It fills in the id before it returns. */
            memset(s->request, 0, sizeof *s->request);
            if (ioctl(s->listener, IOCTL_RECV, s->request) < 0) {
                if (errno == ENOENT || errno == EINTR) {
                    continue; /* the thread that waited is gone */
                }
                return FAILED;
            }
            if (!answer(s)) {
                return REQUEST;
            }
            s->request->id = 0;
        }
        else if (files[0].revents != 0) {
            return END;
        }
        if (files[1].revents != 0) {
            return OTHER;
        }
    }
}

static bool
take(system_calls *all, const Py_buffer *pairs)
{
    if ((size_t)pairs->len > sizeof all->calls) {
        return false;
    }
    memcpy(all->calls, pairs->buf, (size_t)pairs->len);
    all->n = (size_t)pairs->len / sizeof *all->calls;
    return true;
}

PyDoc_STRVAR(serve_doc,
"serve($module, listener, other, request, calls, exits, program, inet, inet6, sndbuf,\n"
"      rcvbuf, mark, netns, timeout, /)\n--\n\n"
"Answers the notifications of socket(2) of a seccomp listener, without the GIL.\n\n"
"Those are the system calls in calls: bytes that are pairs of uint32, AUDIT_ARCH_*\n"
"and number.  The process gets a socket of the same type, of inet, a (domain,\n"
"protocol), or of inet6 if it asked for AF_INET6, with buffers of sndbuf and rcvbuf\n"
"bytes unless they are 0.  request, a writable buffer, always holds the struct\n"
"seccomp_notif at work; the id in it is 0 when there is none.  The calls in exits go\n"
"on as they are, but for those of the process program.\n\n"
"Returns REQUEST for a notification that is the caller's to answer: of another\n"
"system call (unshare(2) and setns(2) have to be among those that the filter tells\n"
"of), of a thread whose network namespace is another one (in its directory of /proc\n"
"the file mark has not the inode netns), or whose socket could not be made or put\n"
"there.  Returns OTHER if the descriptor other is readable, or nothing happened for\n"
"timeout milliseconds (-1: it may take for ever), END if no process is under the\n"
"filter any more.");

static PyObject *
native_serve(PyObject *Py_UNUSED(module), PyObject *args)
{
    server s = {0};
    Py_buffer request, calls, exits;
    if (!PyArg_ParseTuple(args, "iiw*y*y*i(ii)(ii)iisKi:serve", &s.listener, &s.other, &request,
                          &calls, &exits, &s.program, &s.inet.domain, &s.inet.protocol,
                          &s.inet6.domain, &s.inet6.protocol, &s.sndbuf, &s.rcvbuf, &s.mark,
                          &s.netns, &s.timeout)) {
        return NULL;
    }
    PyObject *result = NULL;
    if ((size_t)request.len < sizeof *s.request || !take(&s.sockets, &calls) ||
        !take(&s.exits, &exits) || (uintptr_t)request.buf % _Alignof(struct notification) != 0) {
        PyErr_SetString(PyExc_ValueError, "request is too small, or there are too many calls");
        goto done;
    }
    s.request = request.buf;
    for (;;) {
        int event;
        Py_BEGIN_ALLOW_THREADS
        event = serve_sockets(&s);
        Py_END_ALLOW_THREADS
        if (event != FAILED) {
            result = PyLong_FromLong(event);
            break;
        }
        if (errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            break;
        }
        if (PyErr_CheckSignals()) {
            break;
        }
    }
done:
    PyBuffer_Release(&request);
    PyBuffer_Release(&calls);
    PyBuffer_Release(&exits);
    return result;
}

/* ---- Module ------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"clone", native_clone, METH_NOARGS, clone_doc},
    {"seccomp", native_seccomp, METH_VARARGS, seccomp_doc},
    {"prctl", native_prctl, METH_VARARGS, prctl_doc},
    {"is_child_subreaper", native_is_child_subreaper, METH_NOARGS, is_child_subreaper_doc},
    {"pidfd_getfd", native_pidfd_getfd, METH_VARARGS, pidfd_getfd_doc},
    {"process_vm_readv", native_process_vm_readv, METH_VARARGS, process_vm_readv_doc},
    {"serve", native_serve, METH_VARARGS, serve_doc},
    {NULL, NULL, 0, NULL},
};

static int
add_constant(PyObject *module, const char *name, unsigned long value)
{
    PyObject *number = PyLong_FromUnsignedLong(value);
    if (number == NULL) {
        return -1;
    }
    int outcome = PyModule_AddObjectRef(module, name, number);
    Py_DECREF(number);
    return outcome;
}

/* The numbers of ioctl(2) differ between architectures. */
static int
module_exec(PyObject *module)
{
    if (add_constant(module, "IOCTL_SEND", IOCTL_SEND) < 0 ||
        add_constant(module, "IOCTL_ID_VALID", IOCTL_ID_VALID) < 0 ||
        add_constant(module, "IOCTL_ADDFD", IOCTL_ADDFD) < 0 ||
        PyModule_AddIntMacro(module, REQUEST) < 0 || PyModule_AddIntMacro(module, OTHER) < 0 ||
        PyModule_AddIntMacro(module, END) < 0) {
        return -1;
    }
    return 0;
}

/* As in _smcsock.c: each def leaves out the slots that came after its Python. */
#define SLOT_MULTIPLE_INTERPRETERS 3 /* Py_mod_multiple_interpreters, 3.12 */
#define SLOT_GIL 4                   /* Py_mod_gil, 3.13 */
#define PER_INTERPRETER_GIL ((void *)2)
#define GIL_NOT_USED ((void *)1)

static PyModuleDef_Slot slots[] = {
    {SLOT_GIL, GIL_NOT_USED},
    {SLOT_MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL},
    {Py_mod_exec, (void *)module_exec},
    {0, NULL},
};

PyDoc_STRVAR(module_doc, "The system calls behind 'smcsock run' for any program.");

#define MODULE_DEF(first_slot)                                                        \
    {                                                                                 \
        PyModuleDef_HEAD_INIT, .m_name = "smcsock._native._syscalls",                 \
        .m_doc = module_doc, .m_methods = methods, .m_slots = (first_slot),           \
    }

static struct PyModuleDef def_3_13 = MODULE_DEF(slots);
static struct PyModuleDef def_3_12 = MODULE_DEF(slots + 1);
static struct PyModuleDef def_3_11 = MODULE_DEF(slots + 2);

PyMODINIT_FUNC
PyInit__syscalls(void)
{
    if (Py_Version >= 0x030d0000) {
        return PyModuleDef_Init(&def_3_13);
    }
    if (Py_Version >= 0x030c0000) {
        return PyModuleDef_Init(&def_3_12);
    }
    return PyModuleDef_Init(&def_3_11);
}
