"""The app: enter a patient's visits in the browser and see the ranking of the next visit, its cut and its reasons.

What a person enters lives in the memory of the session and nowhere else: nothing is logged or written, and the page loads
nothing from elsewhere. `state` of a session is the entered patient, what the model read in it, the cut and the chosen code.
"""
