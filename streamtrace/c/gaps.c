/* `count_gaps`, as it is described in core/gaps.py. */

#include "speedups.h"

#define MAX_BUCKETS 64

typedef struct {
    int64_t longest_ns;
    Py_ssize_t longest;
    Py_ssize_t found[MAX_BUCKETS];
} Gaps;

static Gaps
count(const int64_t *times, Py_ssize_t times_count, int64_t before_ns, const int64_t *edges,
      Py_ssize_t edge_count)
{
    Gaps gaps = {0};
    for (Py_ssize_t i = 0; i < times_count; i++) {
        int64_t gap_ns = times[i] - before_ns;
        before_ns = times[i];
        if (gap_ns > gaps.longest_ns) {
            gaps.longest_ns = gap_ns;
            gaps.longest = i;
        }
        if (gap_ns > 0) {
            Py_ssize_t bucket = 0;
            while (bucket < edge_count && edges[bucket] < gap_ns) {
                bucket++;
            }
            gaps.found[bucket]++;
        }
    }
    return gaps;
}

static int
read_numbers(int64_t *numbers, PyObject *const *items, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        numbers[i] = PyLong_AsLongLong(items[i]);
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* Add what was found to the list of counts. */
static int
add(PyObject *counts, const Py_ssize_t *found)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(counts); i++) {
        if (found[i]) {
            Py_ssize_t so_far = PyLong_AsSsize_t(PyList_GET_ITEM(counts, i));
            PyObject *sum = PyErr_Occurred() ? NULL : PyLong_FromSsize_t(so_far + found[i]);
            if (sum == NULL || PyList_SetItem(counts, i, sum) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

/* The times are a list, or what `Alike.read_texts` makes of them. */
static PyObject *
count_gaps(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyTuple_Check(args[2]) || !PyList_Check(args[3])
        || PyTuple_GET_SIZE(args[2]) >= MAX_BUCKETS
        || PyList_GET_SIZE(args[3]) != PyTuple_GET_SIZE(args[2]) + 1) {
        PyErr_SetString(PyExc_TypeError,
                        "count_gaps() takes times, before_ns, edges_ns, and a count per bucket");
        return NULL;
    }
    Py_ssize_t edge_count = PyTuple_GET_SIZE(args[2]);
    int64_t edges[MAX_BUCKETS], before_ns = PyLong_AsLongLong(args[1]);
    if (read_numbers(edges, ((PyTupleObject *)args[2])->ob_item, edge_count) < 0) {
        return NULL;
    }
    Gaps gaps;
    if (PyList_Check(args[0])) {
        Py_ssize_t size = PyList_GET_SIZE(args[0]);
        int64_t *times = PyMem_New(int64_t, size);
        if (times == NULL) {
            return PyErr_NoMemory();
        }
        int failed = read_numbers(times, ((PyListObject *)args[0])->ob_item, size);
        if (!failed) {
            gaps = count(times, size, before_ns, edges, edge_count);
        }
        PyMem_Free(times);
        if (failed) {
            return NULL;
        }
    }
    else {
        Py_buffer view;
        if (PyObject_GetBuffer(args[0], &view, PyBUF_CONTIG_RO | PyBUF_FORMAT) < 0) {
            return NULL;
        }
        if (view.format == NULL || strcmp(view.format, "q") != 0) {
            PyErr_SetString(PyExc_TypeError, "count_gaps() takes times of int64");
            PyBuffer_Release(&view);
            return NULL;
        }
        gaps = count(view.buf, view.len / view.itemsize, before_ns, edges, edge_count);
        PyBuffer_Release(&view);
    }
    return add(args[3], gaps.found) < 0 ? NULL : Py_BuildValue("(Ln)", gaps.longest_ns, gaps.longest);
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
