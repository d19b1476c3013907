/* Sending: what `send` returns, a coroutine in all but name.

   It notes the chunk and awaits the server's `send`, when it is awaited itself; and tells how long
   that took, however it ends, if it gave way to others: else it cannot have waited for the client.
   Those that are over are kept to be used again. */

#include "speedups.h"

#define MAX_SPARE 64

enum state { UNTOUCHED, NOTED, UNUSUAL, UNNOTED, DONE };

typedef struct {
    PyObject_HEAD
    Sender *sender;
    PyObject *message; /* until it is begun */
    PyObject *inner;   /* what is awaited, from then on */
    Notes *notes;
    int64_t at_ns;
    enum state state;
    int waited;
} Sending;

static PyTypeObject Sending_Type;
static Sending *spare[MAX_SPARE];
static int spares;
static PyObject *str_body, *str_more_body, *str_send_unusual, *str_tap, *str_disconnected_ns,
    *str_throw, *str_close;

PyObject *
st_sending(Sender *sender, PyObject *message)
{
    Sending *sending;
    if (spares) {
        sending = spare[--spares];
        _Py_NewReference((PyObject *)sending);
    }
    else {
        sending = PyObject_GC_New(Sending, &Sending_Type);
        if (sending == NULL) {
            return NULL;
        }
    }
    sending->sender = (Sender *)Py_NewRef(sender);
    sending->message = Py_NewRef(message);
    sending->inner = NULL;
    sending->notes = NULL;
    sending->state = UNTOUCHED;
    sending->waited = 0;
    return (PyObject *)sending;
}

static int
Sending_traverse(Sending *self, visitproc visit, void *arg)
{
    Py_VISIT(self->sender);
    Py_VISIT(self->message);
    Py_VISIT(self->inner);
    Py_VISIT(self->notes);
    return 0;
}

static int
Sending_clear(Sending *self)
{
    Py_CLEAR(self->sender);
    Py_CLEAR(self->message);
    Py_CLEAR(self->inner);
    Py_CLEAR(self->notes);
    self->state = DONE;
    return 0;
}

/* It is over; where it `failed` with an exception, which stays as it is. */
static void
finish(Sending *self, int failed)
{
    enum state state = self->state;
    self->state = DONE;
    if (state == NOTED) {
        if (self->waited) {
            st_add_stall(self->notes, st_now_ns() - self->at_ns);
        }
        Py_CLEAR(self->notes);
        if (!failed || !PyErr_ExceptionMatches(PyExc_OSError)) {
            Py_CLEAR(self->inner);
            return;
        }
    }
    Py_CLEAR(self->inner);
    if (state != NOTED && state != UNUSUAL) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    Sender *sender = self->sender;
    if (sender->path == NULL || sender->exchange == NULL) {
        /* taken apart by the garbage collector: nobody will ask */
    }
    else if (state == NOTED) { /* the client has left */
        PyObject *at = PyLong_FromLongLong(self->at_ns);
        if (at == NULL || PyObject_SetAttr(sender->exchange, str_disconnected_ns, at) < 0) {
            PyErr_WriteUnraisable(sender->path);
        }
        Py_XDECREF(at);
    }
    else { /* a stream may have begun or ended */
        PyObject *tap = PyObject_GetAttr(sender->path, str_tap);
        if (tap == NULL) {
            PyErr_WriteUnraisable(sender->path);
        }
        else if (tap == sender->shut || !PyObject_TypeCheck(tap, &st_Notes_Type)) {
            Py_CLEAR(sender->notes);
            Py_DECREF(tap);
        }
        else {
            Py_XSETREF(sender->notes, (Notes *)tap);
        }
    }
    PyErr_Restore(type, value, traceback);
}

static void
Sending_dealloc(Sending *self)
{
    if (self->waited) { /* else it never was tracked */
        PyObject_GC_UnTrack(self);
    }
    if (self->state == UNTOUCHED || self->state == NOTED) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        if (self->state == UNTOUCHED
            && PyErr_WarnEx(PyExc_RuntimeWarning, "coroutine 'observed_send' was never awaited", 1)
                   < 0) {
            PyErr_WriteUnraisable(NULL);
        }
        finish(self, 0);
        PyErr_Restore(type, value, traceback);
    }
    Sending_clear(self);
    if (spares < MAX_SPARE) {
        spare[spares++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
}

/* The iterator of an awaitable, as `await` asks for it. Takes the reference. */
static PyObject *
iterator_of(PyObject *awaitable)
{
    if (awaitable == NULL || PyCoro_CheckExact(awaitable) || PyGen_CheckExact(awaitable)) {
        return awaitable; /* a generator: that of types.coroutine */
    }
    PyAsyncMethods *as_async = Py_TYPE(awaitable)->tp_as_async;
    PyObject *iterator = NULL;
    if (as_async == NULL || as_async->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression",
                     Py_TYPE(awaitable)->tp_name);
    }
    else {
        iterator = as_async->am_await(awaitable);
    }
    Py_DECREF(awaitable);
    return iterator;
}

/* The first step: note the chunk, and send it on. -1 on failure. */
static int
begin(Sending *self)
{
    Sender *sender = self->sender;
    Notes *notes = sender->notes;
    PyObject *message = self->message;
    if (sender->send == NULL || sender->path == NULL) { /* taken apart by the garbage collector */
        PyErr_SetString(PyExc_RuntimeError, "the request is gone");
        return -1;
    }
    self->state = UNUSUAL;
    if (notes != NULL && PyDict_CheckExact(message)) {
        PyObject *body = PyDict_GetItemWithError(message, str_body);
        if (body != NULL && PyBytes_CheckExact(body)
            && PyDict_GetItemWithError(message, str_more_body) == Py_True) {
            int noted = st_note_chunk(notes, body, &self->at_ns);
            if (noted > 0) {
                self->state = NOTED;
                self->notes = (Notes *)Py_NewRef(notes);
            }
            else if (noted < 0) {
                self->state = UNNOTED;
                PyErr_WriteUnraisable(sender->path);
            }
        }
        if (self->state == UNUSUAL) {
            PyErr_Clear();
        }
    }
    PyObject *awaitable = self->state == UNUSUAL
        ? PyObject_CallMethodOneArg(sender->path, str_send_unusual, message)
        : PyObject_CallOneArg(sender->send, message);
    Py_CLEAR(self->message);
    self->inner = iterator_of(awaitable);
    return self->inner == NULL ? -1 : 0;
}

static PySendResult
Sending_am_send(Sending *self, PyObject *arg, PyObject **result)
{
    *result = NULL;
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (self->state == UNTOUCHED && begin(self) < 0) {
        finish(self, 1);
        return PYGEN_ERROR;
    }
    PyObject *inner = Py_NewRef(self->inner);
    PySendResult sent = PyIter_Send(inner, arg, result);
    Py_DECREF(inner);
    if (sent == PYGEN_NEXT) { /* from here on, it may be part of a cycle */
        self->waited = 1;
        if (!PyObject_GC_IsTracked((PyObject *)self)) {
            PyObject_GC_Track(self);
        }
        return sent;
    }
    finish(self, sent == PYGEN_ERROR);
    return sent;
}

/* The result of a step, as a method tells it. */
static PyObject *
told(PySendResult sent, PyObject *result)
{
    if (sent == PYGEN_RETURN) {
        if (result == Py_None) {
            PyErr_SetNone(PyExc_StopIteration);
        }
        else {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        }
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
Sending_send(Sending *self, PyObject *arg)
{
    PyObject *result;
    PySendResult sent = Sending_am_send(self, arg, &result);
    return told(sent, result);
}

/* From Python 3.12 on this is what `await` calls. NULL without an exception is an end without a value,
   and costs least. */
static PyObject *
Sending_iternext(Sending *self)
{
    PyObject *result;
    PySendResult sent = Sending_am_send(self, Py_None, &result);
    if (sent == PYGEN_RETURN && result == Py_None) {
        Py_DECREF(result);
        return NULL;
    }
    return told(sent, result);
}

static PyObject *
as_exception(PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *type = args[0], *value = nargs > 1 ? args[1] : Py_None, *exception;
    if (PyExceptionInstance_Check(type)) {
        exception = Py_NewRef(type);
    }
    else if (PyExceptionInstance_Check(value)) {
        exception = Py_NewRef(value);
    }
    else {
        exception = value == Py_None ? PyObject_CallNoArgs(type) : PyObject_CallOneArg(type, value);
    }
    if (exception != NULL && !PyExceptionInstance_Check(exception)) {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
        Py_CLEAR(exception);
    }
    if (exception != NULL && nargs > 2 && args[2] != Py_None
        && PyException_SetTraceback(exception, args[2]) < 0) {
        Py_CLEAR(exception);
    }
    return exception;
}

static PyObject *
Sending_throw(Sending *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes one to three arguments");
        return NULL;
    }
    PyObject *exception = as_exception(args, nargs);
    if (exception == NULL) {
        return NULL;
    }
    PyObject *inner = Py_XNewRef(self->inner), *result = NULL, *throw = NULL;
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    }
    else if (inner != NULL && (throw = PyObject_GetAttr(inner, str_throw)) != NULL) {
        result = PyObject_CallOneArg(throw, exception);
    }
    else { /* not begun, or an iterator that takes none */
        PyErr_SetObject((PyObject *)Py_TYPE(exception), exception);
    }
    Py_XDECREF(throw);
    Py_XDECREF(inner);
    Py_DECREF(exception);
    if (result == NULL && self->state != DONE) {
        finish(self, 1);
    }
    return result;
}

static PyObject *
Sending_close(Sending *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *inner = Py_XNewRef(self->inner), *closed = NULL;
    int failed = 0;
    if (self->state != DONE && inner != NULL) {
        closed = PyObject_CallMethodNoArgs(inner, str_close);
        if (closed == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)
            && !PyObject_HasAttr(inner, str_close)) {
            PyErr_Clear(); /* an iterator that needs none */
        }
        else {
            failed = closed == NULL;
        }
    }
    Py_XDECREF(inner);
    Py_XDECREF(closed);
    if (self->state != DONE) {
        finish(self, failed);
    }
    if (failed) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
itself(PyObject *self)
{
    return Py_NewRef(self);
}

static PyMethodDef Sending_methods[] = {
    {"send", (PyCFunction)Sending_send, METH_O, NULL},
    {"throw", (PyCFunction)(void (*)(void))Sending_throw, METH_FASTCALL, NULL},
    {"close", (PyCFunction)Sending_close, METH_NOARGS, NULL},
    {NULL},
};

static PyAsyncMethods Sending_as_async = {
    .am_await = itself,
    .am_send = (sendfunc)Sending_am_send,
};

static PyTypeObject Sending_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "streamtrace.speedups.Sending",
    .tp_basicsize = sizeof(Sending),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)Sending_dealloc,
    .tp_traverse = (traverseproc)Sending_traverse,
    .tp_clear = (inquiry)Sending_clear,
    .tp_iter = itself,
    .tp_iternext = (iternextfunc)Sending_iternext,
    .tp_methods = Sending_methods,
    .tp_as_async = &Sending_as_async,
};

int
st_ready_sending(void)
{
    static const struct {
        PyObject **variable;
        const char *text;
    } names[] = {
        {&str_body, "body"},
        {&str_more_body, "more_body"},
        {&str_send_unusual, "send_unusual"},
        {&str_tap, "tap"},
        {&str_disconnected_ns, "disconnected_ns"},
        {&str_throw, "throw"},
        {&str_close, "close"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((*names[i].variable = PyUnicode_InternFromString(names[i].text)) == NULL) {
            return -1;
        }
    }
    return PyType_Ready(&Sending_Type);
}
