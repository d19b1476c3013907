/* `count_gaps`, as it is described in core/gaps.py. */

#include "speedups.h"

#define MAX_BUCKETS 64

static PyObject *
count_gaps(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyList_Check(args[0]) || !PyTuple_Check(args[2]) || !PyList_Check(args[3])
        || PyTuple_GET_SIZE(args[2]) >= MAX_BUCKETS
        || PyList_GET_SIZE(args[3]) != PyTuple_GET_SIZE(args[2]) + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "count_gaps() takes times, before_ns, edges_ns, and a count per bucket");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(args[0]), edge_count = PyTuple_GET_SIZE(args[2]);
    long long edges[MAX_BUCKETS], found[MAX_BUCKETS] = {0}, longest_ns = 0;
    for (Py_ssize_t i = 0; i < edge_count; i++) {
        edges[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(args[2], i));
    }
    long long before_ns = PyLong_AsLongLong(args[1]);
    Py_ssize_t longest = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        long long at_ns = PyLong_AsLongLong(PyList_GET_ITEM(args[0], i));
        long long gap_ns = at_ns - before_ns;
        before_ns = at_ns;
        if (gap_ns > longest_ns) {
            longest_ns = gap_ns;
            longest = i;
        }
        if (gap_ns > 0) {
            Py_ssize_t bucket = 0;
            while (bucket < edge_count && edges[bucket] < gap_ns) {
                bucket++;
            }
            found[bucket]++;
        }
    }
    if (PyErr_Occurred()) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i <= edge_count; i++) {
        if (found[i]) {
            long long so_far = PyLong_AsLongLong(PyList_GET_ITEM(args[3], i));
            PyObject *sum = PyErr_Occurred() ? NULL : PyLong_FromLongLong(so_far + found[i]);
            if (sum == NULL || PyList_SetItem(args[3], i, sum) < 0) {
                return NULL;
            }
        }
    }
    return Py_BuildValue("(Ln)", longest_ns, longest);
}

static PyMethodDef functions[] = {
    {"count_gaps", (PyCFunction)(void (*)(void))count_gaps, METH_FASTCALL, NULL},
    {NULL},
};

int
st_add_gaps(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
